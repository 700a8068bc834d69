//! A response head reads the same however it is split, and states one framing.
#![no_main]

use ai_free_swap::http::{
    body::BodyLength,
    head::{HeadScan, ResponseError, ResponseHead},
};
use libfuzzer_sys::fuzz_target;

type Read = Result<Option<(ResponseHead, usize)>, ResponseError>;

fn read(input: &[u8], lengths: impl IntoIterator<Item = usize>) -> Read {
    let mut scan = HeadScan::default();
    for len in lengths {
        match scan.response(&input[..len]) {
            Ok(None) => {}
            answer => return answer,
        }
    }
    Ok(None)
}

/// Everything a head says, in a form that can be compared.
fn said(read: &Read) -> String {
    match read {
        Ok(Some((head, consumed))) => {
            format!("{head:?} {consumed} {:?}", head.headers.iter().collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else { return };
    let whole = read(input, [input.len()]);
    let cut = input.len() * usize::from(cut) / 255;
    assert_eq!(said(&read(input, [cut, input.len()])), said(&whole), "cut at {cut}");
    assert_eq!(said(&read(input, 0..=input.len())), said(&whole), "byte by byte");

    let Ok(Some((head, consumed))) = &whole else { return };
    assert!(*consumed <= input.len());
    assert!(input[..*consumed].ends_with(b"\r\n\r\n"));
    assert!((100..=999).contains(&head.status));

    let lengths = head.headers.all("content-length").count();
    let encodings = head.headers.all("transfer-encoding").count();
    assert!(lengths == 0 || encodings == 0);
    let without_body = matches!(head.status, 100..=199 | 204 | 304);
    match head.body_length(false).expect("the framing was checked with the head") {
        BodyLength::Chunked => assert!(encodings == 1 && !without_body),
        BodyLength::Length(0) => assert!(lengths > 0 || without_body),
        BodyLength::Length(_) => assert!(lengths > 0 && !without_body),
        BodyLength::UntilClose => assert!(lengths == 0 && encodings == 0),
    }
    assert_eq!(head.body_length(true), Ok(BodyLength::Length(0)));
});

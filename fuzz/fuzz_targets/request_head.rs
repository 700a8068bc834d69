//! A request head reads the same however it is split, and states one framing.
#![no_main]

use ai_free_swap::http::{
    body::BodyLength,
    head::{HeadScan, RequestError, RequestHead, Version},
};
use libfuzzer_sys::fuzz_target;

type Read = Result<Option<(RequestHead, usize)>, RequestError>;

fn read(input: &[u8], lengths: impl IntoIterator<Item = usize>) -> Read {
    let mut scan = HeadScan::default();
    for len in lengths {
        match scan.request(&input[..len]) {
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
            format!("{head:?} {consumed} {} {:?}", head.target, head.headers.iter().collect::<Vec<_>>())
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

    let (head, consumed) = match &whole {
        Ok(Some((head, consumed))) => (head, *consumed),
        Ok(None) => return,
        Err(error) => {
            assert!(matches!(error.status(), 400 | 414 | 431 | 501 | 505));
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(consumed <= input.len());
    assert!(input[..consumed].ends_with(b"\r\n\r\n"));
    assert_eq!(said(&read(&input[..consumed], [consumed])), said(&whole), "what follows has no influence");

    let lengths = head.headers.all("content-length").count();
    let encodings = head.headers.all("transfer-encoding").count();
    match head.body {
        BodyLength::Chunked => assert_eq!((lengths, encodings, head.version), (0, 1, Version::Http11)),
        BodyLength::Length(0) => assert_eq!(encodings, 0),
        BodyLength::Length(_) => assert!(lengths > 0 && encodings == 0),
        BodyLength::UntilClose => panic!("a request cannot end with the connection"),
    }
    let hosts = head.headers.all("host").count();
    assert!(hosts == 1 || (hosts == 0 && head.version == Version::Http10));
    assert!(head.path().starts_with('/') || head.path() == "*");
    assert!(head.target.bytes().all(|b| b.is_ascii_graphic()));
    for (name, value) in head.headers.iter() {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        assert!(value.iter().all(|&b| b == b'\t' || !b.is_ascii_control()));
        assert_eq!(value.trim_ascii(), value);
    }
});

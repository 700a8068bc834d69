//! Whatever a provider sends, readers keep the grammar of events, and writers make JSON of it with one proper end.
#![no_main]

use ai_free_swap::dialect::answer::failure::read_failure;
use ai_free_swap::dialect::answer::think::ThinkTags;
use ai_free_swap::dialect::answer::{
    ChatReader, ChatWriter, Echo, Fold, MessagesReader, MessagesWriter, Names, ReadError, Reader,
    ResponsesWriter, Writer,
};
use ai_free_swap::dialect::model::{Block, ClientTool, ClientTools, Event, Failure, ToolKind};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

#[derive(Default)]
struct Grammar {
    started: bool,
    open: bool,
    ended: bool,
}

impl Grammar {
    fn event(&mut self, event: &Event<'_>) {
        assert!(!self.ended, "{event:?} after the end");
        match event {
            Event::Start { .. } => assert!(!std::mem::replace(&mut self.started, true)),
            Event::Open(block) => {
                assert!(self.started && !std::mem::replace(&mut self.open, true));
                assert!(!matches!(block, Block::Tool { id, name, .. } if id.is_empty() || name.is_empty()));
            }
            Event::Delta(piece) => assert!(self.open && !piece.is_empty()),
            Event::Close { .. } => assert!(std::mem::replace(&mut self.open, false)),
            Event::Finish { .. } => {
                assert!(self.started && !self.open);
                self.ended = true;
            }
            Event::Failed { .. } => self.ended = true,
        }
    }
}

fn writers() -> [Writer; 3] {
    let names = Names { provider_json: Some("\"p\"".into()), model_json: "\"m\"".into(), ..Names::default() };
    let mut tools = ClientTools::default();
    let patch = ClientTool { name: "patch".into(), namespace: Some("n".into()), kind: ToolKind::Custom };
    tools.0.insert("get_weather".into(), patch);
    [
        Writer::Chat(Box::new(ChatWriter::new(&names, true, tools.clone()))),
        Writer::Messages(Box::new(MessagesWriter::new(&names, tools.clone()))),
        Writer::Responses(Box::new(ResponsesWriter::new(&names, tools, Echo::default()))),
    ]
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, input)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(input) else { return };
    let think = [ThinkTags::None, ThinkTags::Leading, ThinkTags::Unopened, ThinkTags::None];
    let mut reader = match flags & 1 {
        0 => Reader::Chat(Box::new(ChatReader::new(1, think[usize::from(flags >> 2 & 3)]))),
        _ => Reader::Messages(Box::new(MessagesReader::new(1))),
    };
    let (mut grammar, mut fold, mut writers) = (Grammar::default(), Fold::default(), writers());
    let mut ends = [0; 3];
    let mut sink = |event: Event<'_>| {
        grammar.event(&event);
        fold.event(event.clone());
        for (writer, ends) in writers.iter_mut().zip(&mut ends) {
            writer.event(event.clone(), &mut |name, data| {
                assert!(data == "[DONE]" || is_json(data), "{data}");
                let last = ["[DONE]", "message_stop", "error", "response.completed", "response.incomplete"];
                let is_error = name.is_empty() && data.starts_with("{\"error\":");
                *ends += usize::from(
                    is_error || name == "response.failed" || last.contains(&name) || last.contains(&data),
                );
            });
        }
    };
    let mut failed = None;
    if flags & 16 != 0 {
        failed = reader.whole(text, &mut sink).err();
    } else {
        for line in text.lines() {
            match reader.event("", line, &mut sink) {
                Ok(()) | Err(ReadError::Malformed) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if failed.is_none() && reader.end(flags & 2 != 0 || reader.is_done(), &mut sink).is_err() {
            failed = Some(ReadError::Broken("truncated"));
        }
    }
    if let Some(error) = failed {
        let (failure, message) = match &error {
            ReadError::Error(text) => read_failure(text),
            _ => (Failure::Server, "broken".to_owned()),
        };
        sink(Event::Failed { failure, message: &message });
    }
    assert!(grammar.ended);
    assert_eq!(ends, [1; 3], "each client is told the end once");
    let (names, tools) = (Names { model_json: "\"m\"".into(), ..Names::default() }, ClientTools::default());
    assert!(is_json(&fold.into_messages(&names, &tools)));
});

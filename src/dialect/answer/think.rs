//! `<think>` tags in the text of models whose servers do not part reasoning from answer (translation §8).

pub use crate::provider::quirks::ThinkTags;

/// Opening and closing tags; `<thought>` is Gemini's.
const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("<thought>", "</thought>")];
/// White space held in front of a tag, in bytes.
const BLANK_BYTES_MAX: usize = 32;

/// Parts reasoning from text, whatever the pieces.
#[derive(Debug)]
pub(super) struct ThinkFilter {
    state: State,
    /// What may become a tag: at most a tag's length, and white space before it.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Everything is text.
    Off,
    /// Nothing has been said. `unopened`: what follows is reasoning even without a tag.
    Start { unopened: bool },
    /// In reasoning that ends with `close`. `blank`: nothing but white space so far.
    Inside { close: &'static str, blank: bool },
    /// Behind the closing tag, white space only so far.
    Behind,
}

impl ThinkFilter {
    pub(super) fn new(tags: ThinkTags) -> Self {
        let state = match tags {
            ThinkTags::None => State::Off,
            ThinkTags::Leading => State::Start { unopened: false },
            ThinkTags::Unopened => State::Start { unopened: true },
        };
        Self { state, held: String::new() }
    }

    pub(super) fn is_off(&self) -> bool {
        self.state == State::Off
    }

    /// There are no tags after all, unless one has been seen.
    pub(super) fn pass(&mut self) {
        if matches!(self.state, State::Start { .. }) && self.held.is_empty() {
            self.state = State::Off;
        }
    }

    /// Takes a piece and gives `emit` what is certain: whether it is reasoning, and the text.
    pub(super) fn take(&mut self, piece: &str, emit: &mut dyn FnMut(bool, &str)) {
        let joined;
        let mut rest = piece;
        if !self.held.is_empty() {
            self.held.push_str(piece);
            joined = std::mem::take(&mut self.held);
            rest = &joined;
        }
        // Each round moves on to the next state or uses `rest` up.
        while !rest.is_empty() {
            rest = match self.state {
                State::Off => {
                    emit(false, rest);
                    return;
                }
                State::Start { unopened } => {
                    let text = rest.trim_start();
                    if let Some((open, close)) = TAGS.into_iter().find(|(open, _)| text.starts_with(open)) {
                        self.state = State::Inside { close, blank: true };
                        text.strip_prefix(open).unwrap_or_default()
                    } else if rest.len() - text.len() <= BLANK_BYTES_MAX
                        && TAGS.iter().any(|(open, _)| open.starts_with(text))
                    {
                        self.held.push_str(rest);
                        return;
                    } else {
                        let [(_, close), _] = TAGS;
                        self.state = if unopened { State::Inside { close, blank: true } } else { State::Off };
                        rest
                    }
                }
                State::Inside { close, blank } => {
                    let text = if blank { rest.trim_start() } else { rest };
                    let (reasoning, tail) = match text.split_once(close) {
                        Some((reasoning, tail)) => {
                            self.state = State::Behind;
                            (reasoning, tail)
                        }
                        None => {
                            let (reasoning, tail) = text.split_at(text.len() - tag_start(text, close));
                            self.held.push_str(tail);
                            self.state = State::Inside { close, blank: blank && reasoning.is_empty() };
                            (reasoning, "")
                        }
                    };
                    if !reasoning.is_empty() {
                        emit(true, reasoning);
                    }
                    tail
                }
                State::Behind => {
                    let text = rest.trim_start();
                    if !text.is_empty() {
                        self.state = State::Off;
                    }
                    text
                }
            };
        }
    }

    /// Nothing follows: what was held is no tag.
    pub(super) fn end(&mut self, emit: &mut dyn FnMut(bool, &str)) {
        let held = std::mem::take(&mut self.held);
        if !held.trim_start().is_empty() {
            emit(matches!(self.state, State::Inside { .. }), &held);
        }
        self.state = State::Off;
    }
}

/// Length of the longest end of `text` with which `tag` could begin. Tags are ASCII, so it is on a boundary.
fn tag_start(text: &str, tag: &str) -> usize {
    let longest = text.len().min(tag.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| tag.as_bytes().get(..n) == text.as_bytes().get(text.len() - n..))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tags: ThinkTags, input: &str, reasoning: &str, text: &str) {
        let boundaries: Vec<usize> = (0..=input.len()).filter(|&n| input.is_char_boundary(n)).collect();
        let mut cuts: Vec<Vec<&str>> =
            boundaries.iter().map(|&cut| vec![&input[..cut], &input[cut..]]).collect();
        cuts.push(boundaries.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect());
        for pieces in cuts {
            let (mut filter, mut got) = (ThinkFilter::new(tags), [String::new(), String::new()]);
            let mut emit = |thinks: bool, text: &str| {
                assert!(!text.is_empty());
                got[usize::from(!thinks)].push_str(text);
            };
            for piece in &pieces {
                filter.take(piece, &mut emit);
            }
            filter.end(&mut emit);
            assert_eq!(got, [reasoning, text], "{pieces:?}");
        }
    }

    #[test]
    fn reasoning_is_parted_from_text_at_every_cut() {
        use ThinkTags::{Leading, None, Unopened};
        check(Leading, "<think>\n2+2 is 4.\n</think>\n\n4", "2+2 is 4.\n", "4");
        check(
            Leading,
            "\n<thought>a</think>b</thought>c <think>d</think>",
            "a</think>b",
            "c <think>d</think>",
        );
        check(Leading, "no <think>x</think>", "", "no <think>x</think>");
        check(Leading, "<thin", "", "<thin");
        check(Leading, "<thinker>", "", "<thinker>");
        check(Leading, "<think>ä</thin", "ä</thin", "");
        check(Leading, "<think></think>x", "", "x");
        check(Leading, "  \n ", "", "");
        check(Leading, &(" ".repeat(40) + "x"), "", &(" ".repeat(40) + "x"));
        check(Unopened, "a</think>\nb", "a", "b");
        check(Unopened, "<think>a</think>b", "a", "b");
        check(Unopened, "a", "a", "");
        check(None, "<think>a</think>b", "", "<think>a</think>b");
    }
}

//! Parts of Responses items: messages, outputs, summaries; the tools that need no definition (openai-responses §2, §3).

use super::super::error::ApiError;
use super::super::model::{Part, Source, ToolKind};
use super::fields::{Content, List, Path, TextOr};
use super::parts::{file, left_out, source};
use std::borrow::Cow;

/// The parts of a message or an output.
pub(super) fn shown<'a>(
    content: Content<'a>,
    path: &Path,
    dropped: &mut Vec<String>,
) -> Result<Vec<Part<'a>>, ApiError> {
    let blocks = match content {
        Content::Text(text) if text.is_empty() => return Ok(Vec::new()),
        Content::Text(text) => return Ok(vec![Part::Text(text)]),
        Content::Parts(blocks) => blocks,
    };
    let mut parts = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.each() {
        let path = path.at(at);
        let mut block = block.need(&path)?;
        if block.has("stdout") {
            let stdout = block.word(&path, "stdout")?;
            let stderr = block.opt_word(&path, "stderr")?.unwrap_or_default();
            let outcome = block.raw("outcome").unwrap_or_default();
            parts.push(Part::Text(format!("{stdout}{stderr}\n{outcome}").trim().to_owned().into()));
            continue;
        }
        let kind = block.word(&path, "type")?;
        parts.push(match &*kind {
            "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
                Part::Text(block.need(&path, "text")?)
            }
            "refusal" => Part::Refusal(block.need(&path, "refusal")?),
            "input_image" => {
                let path = path.key("image_url");
                match block.field("image_url").opt(&path)? {
                    Some(TextOr::Text(url)) => Part::Image(source(url)),
                    Some(TextOr::Object(mut image)) => Part::Image(source(image.need(&path, "url")?)),
                    None => left_out("image file_id", dropped),
                }
            }
            "input_file" => {
                let name = block.opt(&path, "filename")?;
                let data = block.opt(&path, "file_data")?;
                let url = block.opt(&path, "file_url")?;
                match (data, url) {
                    (Some(data), _) => file(data, name),
                    (None, Some(url)) => Part::Document { source: Source::Url(url), name },
                    (None, None) => left_out("file_id", dropped),
                }
            }
            other => left_out(other, dropped),
        });
    }
    parts.retain(|part| !matches!(part, Part::Text(text) | Part::Refusal(text) if text.is_empty()));
    Ok(parts)
}

/// The texts of a summary or of shown reasoning.
pub(super) fn collect_texts<'a>(
    blocks: List<'a>,
    path: &Path,
    out: &mut Vec<Cow<'a, str>>,
) -> Result<(), ApiError> {
    for (at, block) in blocks.each() {
        let path = path.at(at);
        let mut block = block.need(&path)?;
        out.extend(block.opt_word(&path, "text")?.filter(|text| !text.is_empty()));
    }
    Ok(())
}

/// Tools that Responses knows without a definition, as functions of the same shape as their calls.
pub(super) fn built_in(kind: &str) -> Option<(ToolKind, &'static str, &'static str, &'static str)> {
    Some(match kind {
        "local_shell" => (
            ToolKind::LocalShell,
            "local_shell",
            "Runs a command on the user's machine.",
            r#"{"type":"object","properties":{"type":{"type":"string","enum":["exec"]},"command":{"type":"array","items":{"type":"string"}},"working_directory":{"type":"string"},"timeout_ms":{"type":"integer"},"env":{"type":"object","additionalProperties":{"type":"string"}}},"required":["command"]}"#,
        ),
        "shell" => (
            ToolKind::Shell,
            "shell",
            "Runs shell commands on the user's machine, one after the other.",
            r#"{"type":"object","properties":{"commands":{"type":"array","items":{"type":"string"}},"timeout_ms":{"type":"integer"}},"required":["commands"]}"#,
        ),
        "apply_patch" => (
            ToolKind::ApplyPatch,
            "apply_patch",
            "Creates, changes or deletes one file. `diff` is in the V4A format, without it for a deletion.",
            r#"{"type":"object","properties":{"type":{"type":"string","enum":["create_file","update_file","delete_file"]},"path":{"type":"string"},"diff":{"type":"string"}},"required":["type","path"]}"#,
        ),
        _ => return None,
    })
}

//! What the file says of a backend's quirks, over what is known of its preset.

use super::item::{Item, natural};
use super::raw::Problem;
use crate::limits::STOP_SEQUENCES_MAX;
use crate::provider::quirks::{
    Bounds, EFFORTS, Messages, Passing, Quirks, ThinkTags, ToolChoices, ToolIds, Word, Written,
};

/// Reads `quirks`; what is not said there is as in `preset`.
pub(super) fn quirks(item: &Item<'_>, preset: Quirks) -> Result<Quirks, Problem> {
    let newer = item.get("max_completion_tokens").boolean()?;
    let developer_role = item.get("developer_role").boolean()?;
    let efforts = efforts(&item.get("efforts"))?;
    let dropped = item.get("drop_params");
    let given = params(&dropped)?;
    let known = preset.passing;
    let (mut drop_params, refused) = match dropped.is_null() {
        true => (preset.drop_params, known.drop_params),
        false => (given.clone(), given),
    };
    if dropped.is_null() && efforts.as_ref().is_some_and(|words| !words.is_empty()) {
        drop_params.retain(|name| name != "reasoning_effort");
    }
    let flag = |key: &str, preset: bool| Ok(item.get(key).boolean()?.unwrap_or(preset));
    let think_tags =
        [("none", ThinkTags::None), ("leading", ThinkTags::Leading), ("unopened", ThinkTags::Unopened)];
    Ok(Quirks {
        stream_options: flag("stream_options", preset.stream_options)?,
        max_completion_tokens: newer.unwrap_or(preset.max_completion_tokens),
        developer_role: developer_role.unwrap_or(preset.developer_role),
        n: flag("n", preset.n)?,
        drop_params,
        think_tags: item.get("think_tags").word(&think_tags)?.unwrap_or(preset.think_tags),
        written: written(item, preset.written, efforts)?,
        passing: Passing {
            drop_params: refused,
            limit: match newer {
                Some(false) => Some("max_tokens"),
                Some(true) => known.limit.filter(|name| *name != "max_tokens"),
                None => known.limit,
            },
            no_developer: developer_role.map_or(known.no_developer, |understood| !understood),
        },
    })
}

fn written(item: &Item<'_>, preset: Written, efforts: Option<Vec<&'static str>>) -> Result<Written, Problem> {
    let flag = |key: &str, preset: bool| Ok(item.get(key).boolean()?.unwrap_or(preset));
    let ids = [("any", ToolIds::Any), ("plain", ToolIds::Plain), ("nine", ToolIds::Nine)];
    let choices =
        [("all", ToolChoices::All), ("auto_none", ToolChoices::AutoNone), ("auto", ToolChoices::Auto)];
    let echoes =
        [("none", None), ("reasoning_content", Some("reasoning_content")), ("reasoning", Some("reasoning"))];
    let prefills = [("none", None), ("prefix", Some("prefix")), ("partial", Some("partial"))];
    let most_stops = item.get("stop_max").integer(1..=STOP_SEQUENCES_MAX)?;
    let schema_drop = item.get("schema_drop");
    let renamed = item.get("renamed");
    Ok(Written {
        tool_ids: item.get("tool_ids").word(&ids)?.unwrap_or(preset.tool_ids),
        tool_choice: item.get("tool_choice").word(&choices)?.unwrap_or(preset.tool_choice),
        single_calls: flag("single_calls", preset.single_calls)?,
        strict: flag("strict", preset.strict)?,
        schema_drop: if schema_drop.is_null() { preset.schema_drop } else { words(&schema_drop)? },
        schema_tidy: flag("schema_tidy", preset.schema_tidy)?,
        null_content: flag("null_content", preset.null_content)?,
        reasoning_echo: item.get("reasoning_echo").word(&echoes)?.unwrap_or(preset.reasoning_echo),
        efforts: efforts.unwrap_or(preset.efforts),
        thought_signatures: flag("thought_signatures", preset.thought_signatures)?,
        user_after_tool: flag("user_after_tool", preset.user_after_tool)?,
        files: flag("files", preset.files)?,
        top_k: flag("top_k", preset.top_k)?,
        stop_max: most_stops.and_then(|most| usize::try_from(most).ok()).unwrap_or(preset.stop_max),
        json_schema: flag("json_schema", preset.json_schema)?,
        renamed: if renamed.is_null() { preset.renamed } else { names(&renamed)? },
        prefill: item.get("prefill").word(&prefills)?.unwrap_or(preset.prefill),
        max_tokens_default: natural(&item.get("max_tokens_default"))?.or(preset.max_tokens_default),
        max_tokens_cap: natural(&item.get("max_tokens_cap"))?.or(preset.max_tokens_cap),
        temperature: bounds(&item.get("temperature"))?.or(preset.temperature),
        top_p: bounds(&item.get("top_p"))?.or(preset.top_p),
        messages: messages(&item.get("anthropic"), preset.messages)?,
    })
}

fn messages(item: &Item<'_>, preset: Messages) -> Result<Messages, Problem> {
    let flag = |key: &str, preset: bool| Ok(item.get(key).boolean()?.unwrap_or(preset));
    Ok(Messages {
        adaptive: flag("adaptive", preset.adaptive)?,
        thinking: flag("thinking", preset.thinking)?,
        xhigh: flag("xhigh", preset.xhigh)?,
        sampling: flag("sampling", preset.sampling)?,
        prefill: flag("prefill", preset.prefill)?,
        format: flag("format", preset.format)?,
    })
}

/// A parameter that is not the request itself.
fn param(item: &Item<'_>, name: &str) -> Result<(), Problem> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(item.problem("must be the name of a request parameter, such as `logit_bias`"));
    }
    if ["model", "messages", "stream"].contains(&name) {
        return Err(item.problem("cannot be left out of a request; remove it here"));
    }
    Ok(())
}

fn params(list: &Item<'_>) -> Result<Vec<String>, Problem> {
    let mut params = Vec::new();
    for item in list.items() {
        let name = item.filled()?.unwrap_or_default();
        param(&item, name)?;
        params.push(name.to_owned());
    }
    Ok(params)
}

fn words(list: &Item<'_>) -> Result<Vec<Word>, Problem> {
    let mut words = Vec::new();
    for item in list.items() {
        let Some(word) = item.filled()? else { return Err(item.problem("must be a word of JSON Schema")) };
        if ["type", "properties", "items"].contains(&word) {
            return Err(item.problem("cannot be left out of a schema; remove it here"));
        }
        words.push(Word::Owned(word.to_owned()));
    }
    Ok(words)
}

fn names(map: &Item<'_>) -> Result<Vec<(Word, Word)>, Problem> {
    let mut names = Vec::new();
    for (old, item) in map.entries() {
        let new = item.filled()?.unwrap_or_default();
        param(&item, old)?;
        param(&item, new)?;
        names.push((Word::Owned(old.to_owned()), Word::Owned(new.to_owned())));
    }
    Ok(names)
}

/// Words of `reasoning_effort`, in ascending order however the file has them.
fn efforts(list: &Item<'_>) -> Result<Option<Vec<&'static str>>, Problem> {
    if list.is_null() {
        return Ok(None);
    }
    let table = EFFORTS.map(|word| (word, word));
    let mut given = Vec::new();
    for item in list.items() {
        given.extend(item.word(&table)?);
    }
    Ok(Some(EFFORTS.into_iter().filter(|word| given.contains(word)).collect()))
}

/// `[least, most]`.
fn bounds(pair: &Item<'_>) -> Result<Option<Bounds>, Problem> {
    if pair.is_null() {
        return Ok(None);
    }
    let numbers: Vec<f64> = pair
        .items()
        .iter()
        .filter_map(|item| item.text()?.parse().ok().filter(|x: &f64| x.is_finite()))
        .collect();
    match numbers[..] {
        [least, most] if pair.items().len() == 2 && least <= most => Ok(Some(Bounds { least, most })),
        _ => Err(pair.problem("must be the least and the largest value, such as `[0, 1]`")),
    }
}

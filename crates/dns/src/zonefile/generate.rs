//! `$GENERATE START-STOP[/STEP] OWNER TYPE DATA`: BIND's way to write many records as one.

use super::lexer::Word;

/// One line makes so many records at most (CoreDNS' library has the same limit).
const COUNT_MAX: u64 = 65_535;

/// The lines that it stands for, each as words.
pub(super) fn lines(words: &[Word]) -> Result<Vec<Vec<Word>>, String> {
    let Some((range, template)) = words.split_first() else { return Err("$GENERATE takes a range".into()) };
    let (start, stop, step) = parse_range(&range.text()).ok_or_else(|| range.wrong("no range"))?;
    if (stop - start) / step >= COUNT_MAX {
        return Err(range.wrong(format_args!("more than {COUNT_MAX} records")));
    }
    let mut lines = Vec::new();
    let mut number = start;
    while number <= stop {
        let mut line = Vec::new();
        for word in template {
            let mut made =
                Word::of(&substitute(&word.text(), number).ok_or_else(|| word.wrong("no modifier"))?);
            made.quoted = word.quoted;
            line.push(made);
        }
        lines.push(line);
        number += step;
    }
    Ok(lines)
}

fn parse_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
        None => (text, 1),
    };
    let (start, stop) = range.split_once('-')?;
    let (start, stop) = (start.parse::<u32>().ok()?, stop.parse::<u32>().ok()?);
    (start <= stop).then_some((u64::from(start), u64::from(stop), step))
}

/// Replaces `$` and `${OFFSET[,WIDTH[,BASE]]}` by the number; `\$` and `$$` are a dollar.
fn substitute(text: &str, number: u64) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = after.strip_prefix("\\$").or_else(|| after.strip_prefix("$$")) {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('\\') {
            out.push('\\');
            rest = after;
        } else if let Some(after) = after.strip_prefix("${") {
            let (modifier, after) = after.split_once('}')?;
            out.push_str(&modified(modifier, number)?);
            rest = after;
        } else {
            out.push_str(&number.to_string());
            rest = after.get(1..)?;
        }
    }
    out.push_str(rest);
    Some(out)
}

fn modified(modifier: &str, number: u64) -> Option<String> {
    let mut parts = modifier.split(',');
    let offset: i64 = parts.next()?.parse().ok()?;
    let width = parts.next().map_or(Some(0), |width| width.parse::<usize>().ok())?;
    let base = parts.next().unwrap_or("d");
    let value = i64::try_from(number).ok()?.checked_add(offset)?;
    if parts.next().is_some() || width > 255 || value < 0 {
        return None;
    }
    Some(match base {
        "d" => format!("{value:0width$}"),
        "o" => format!("{value:0width$o}"),
        "x" => format!("{value:0width$x}"),
        "X" => format!("{value:0width$X}"),
        _ => return None,
    })
}

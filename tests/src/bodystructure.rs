//! BODYSTRUCTURE (RFC 9051 §7.5.2) as a client needs it: the leaf parts, their section numbers and their octets.

use anyhow::{Context, Result, bail, ensure};

use crate::value::Value;

/// A part whose octets `BODY[section]` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its section number, such as `1` or `2.1.3`.
    pub section: String,
    /// Type and subtype in lower case, such as `text/plain`.
    pub media: String,
    /// The octets that the structure says it has, still transfer-encoded.
    pub octets: u64,
}

/// Checks the form of a whole BODYSTRUCTURE and lists all parts that have a size of their own, in order.
pub fn parts(structure: &Value) -> Result<Vec<Part>> {
    let mut found = Vec::new();
    if is_multipart(structure)? {
        multipart(structure, "", &mut found)?;
    } else {
        single(structure, "1", &mut found)?;
    }
    Ok(found)
}

/// Recursion is bounded by the parser that made the value.
fn is_multipart(body: &Value) -> Result<bool> {
    Ok(matches!(body.list()?.first(), Some(Value::List(_))))
}

fn multipart(body: &Value, prefix: &str, found: &mut Vec<Part>) -> Result<()> {
    let fields = body.list()?;
    let children = fields.iter().take_while(|field| matches!(field, Value::List(_))).count();
    for (number, child) in fields[..children].iter().enumerate() {
        let section =
            if prefix.is_empty() { format!("{}", number + 1) } else { format!("{prefix}.{}", number + 1) };
        if is_multipart(child)? {
            multipart(child, &section, found)?
        } else {
            single(child, &section, found)?
        }
    }
    let rest = &fields[children..];
    text(rest.first(), "multipart subtype")?;
    if let Some(parameters) = rest.get(1) {
        pairs(parameters).context("multipart parameters")?;
    }
    extension(rest.get(2..).unwrap_or_default())
}

fn single(body: &Value, section: &str, found: &mut Vec<Part>) -> Result<()> {
    let fields = body.list()?;
    ensure!(fields.len() >= 7, "section {section}: a part with {} fields", fields.len());
    let kind = text(fields.first(), "type")?;
    let subtype = text(fields.get(1), "subtype")?;
    pairs(&fields[2]).with_context(|| format!("section {section}: parameters"))?;
    fields[3].octets()?;
    fields[4].octets()?;
    text(fields.get(5), "transfer encoding")?;
    let octets = fields[6].number().with_context(|| format!("section {section}: octets"))?;
    let media = format!("{kind}/{subtype}").to_ascii_lowercase();
    let mut next = 7;
    // message/global is such a part only to servers of RFC 9051; to older ones it is one like any other.
    let global = media == "message/global" && matches!(fields.get(7), Some(Value::List(_)));
    if media == "message/rfc822" || global {
        ensure!(fields.len() >= 10, "section {section}: message/rfc822 with {} fields", fields.len());
        envelope(&fields[7]).with_context(|| format!("section {section}: envelope"))?;
        fields[9].number().context("lines of a message")?;
        next = 10;
    } else if media.starts_with("text/") {
        fields.get(7).context("a text part without lines")?.number().context("lines of a text")?;
        next = 8;
    }
    found.push(Part { section: section.to_owned(), media: media.clone(), octets });
    if next == 10 {
        let inner = &fields[8];
        if is_multipart(inner)? {
            multipart(inner, section, found)?;
        } else {
            single(inner, &format!("{section}.1"), found)?;
        }
    }
    // body-fld-md5, then disposition, language and location as in a multipart.
    if let Some(md5) = fields.get(next) {
        md5.octets().context("md5")?;
    }
    extension(fields.get(next + 1..).unwrap_or_default())
}

/// `body-fld-dsp [SP body-fld-lang [SP body-fld-loc ...]]`
fn extension(fields: &[Value]) -> Result<()> {
    match fields.first() {
        None | Some(Value::Nil) => {}
        Some(Value::List(disposition)) => {
            text(disposition.first(), "disposition")?;
            pairs(disposition.get(1).context("a disposition without parameters")?)?;
            ensure!(disposition.len() == 2, "a disposition of {} fields", disposition.len());
        }
        Some(other) => bail!("disposition is {other:?}"),
    }
    match fields.get(1) {
        Some(Value::List(languages)) => {
            ensure!(!languages.is_empty(), "an empty list of languages");
            for language in languages {
                text(Some(language), "language")?;
            }
        }
        Some(other) => {
            other.octets()?;
        }
        None => {}
    }
    if let Some(location) = fields.get(2) {
        location.octets()?;
    }
    Ok(())
}

/// Checks an ENVELOPE (RFC 9051 §7.5.2): ten fields, the addresses lists of four strings or NIL.
pub fn envelope(value: &Value) -> Result<()> {
    let fields = value.list()?;
    ensure!(fields.len() == 10, "an envelope of {} fields", fields.len());
    for (number, field) in fields.iter().enumerate() {
        if !(2..8).contains(&number) {
            field.octets().with_context(|| format!("envelope field {number}"))?;
            continue;
        }
        let Value::List(addresses) = field else {
            ensure!(*field == Value::Nil, "envelope field {number} is {field:?}");
            continue;
        };
        ensure!(!addresses.is_empty(), "envelope field {number} is an empty list; NIL is meant");
        for address in addresses {
            let parts = address.list()?;
            ensure!(parts.len() == 4, "an address of {} fields", parts.len());
            for part in parts {
                part.octets()?;
            }
        }
    }
    Ok(())
}

fn pairs(value: &Value) -> Result<()> {
    let Value::List(items) = value else {
        ensure!(*value == Value::Nil, "parameters are {value:?}");
        return Ok(());
    };
    ensure!(!items.is_empty() && items.len() % 2 == 0, "{} strings are no pairs", items.len());
    for item in items {
        text(Some(item), "parameter")?;
    }
    Ok(())
}

/// A string proper: neither NIL nor an atom (RFC 9051's grammar wants `string` here).
fn text(value: Option<&Value>, what: &str) -> Result<String> {
    match value {
        Some(Value::Text(octets)) => Ok(String::from_utf8_lossy(octets).into_owned()),
        other => bail!("{what} is {other:?}, not a string"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(raw: &str) -> Vec<(String, String, u64)> {
        let values = crate::value::parse(raw.as_bytes()).unwrap();
        parts(&values[0]).unwrap().into_iter().map(|part| (part.section, part.media, part.octets)).collect()
    }

    #[test]
    fn a_message_inside_a_multipart_has_its_own_numbers() {
        let text =
            |octets: u64| format!("(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"utf-8\") NIL NIL \"7BIT\" {octets} 1)");
        let envelope = "(NIL \"s\" ((NIL NIL \"a\" \"b.test\")) NIL NIL NIL NIL NIL NIL \"<1@b.test>\")";
        let inner = format!("({}{} \"ALTERNATIVE\" (\"BOUNDARY\" \"x\") NIL NIL)", text(5), text(6));
        let message = format!("(\"MESSAGE\" \"RFC822\" NIL NIL NIL \"7BIT\" 99 {envelope} {inner} 4)");
        let found = sections(&format!("({}{message} \"MIXED\")", text(3)));
        let want = [
            ("1", "text/plain", 3),
            ("2", "message/rfc822", 99),
            ("2.1", "text/plain", 5),
            ("2.2", "text/plain", 6),
        ];
        assert_eq!(found, want.map(|(section, media, octets)| (section.into(), media.into(), octets)));
    }

    #[test]
    fn a_text_part_without_lines_is_refused() {
        let values = crate::value::parse(b"(\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 3)").unwrap();
        assert!(parts(&values[0]).is_err());
    }
}

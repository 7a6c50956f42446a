//! The arguments of a call: checked against the tool's schema, with small mistakes accepted where
//! the meaning is clear; and the arguments as a person reads them.
//!
//! `llm` has repaired the JSON before, as far as possible.

use serde_json::{Map, Value};

use crate::base::json;
use crate::base::text;
use crate::llm::{ToolCall, ToolSpec};

/// The key that `llm` sets when the arguments are not JSON: their text. `why` says what is wrong.
const INVALID_JSON: &str = "invalid_json";
/// Characters of a wrong value that its error shows.
const VALUE_CHARS_MAX: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq)]
enum FieldType {
    Number,
    Text,
}

/// The fields of all tools, in the order in which people read them, and other names that models
/// use for them: in lower case, without `_` and `-`.
const FIELDS: [(&str, FieldType, &[&str]); 10] = [
    ("label", FieldType::Text, &["description"]),
    ("path", FieldType::Text, &["filepath", "filename", "file"]),
    ("command", FieldType::Text, &["cmd", "script"]),
    (
        "content",
        FieldType::Text,
        &["contents", "text", "filetext"],
    ),
    ("oldText", FieldType::Text, &["oldstring", "oldstr", "old"]),
    ("newText", FieldType::Text, &["newstring", "newstr", "new"]),
    ("offset", FieldType::Number, &[]),
    ("limit", FieldType::Number, &[]),
    (
        "timeout",
        FieldType::Number,
        &["timeoutseconds", "timeoutsecs"],
    ),
    ("title", FieldType::Text, &[]),
];

/// A call's arguments, checked against the tool's schema.
#[derive(Debug)]
pub(super) struct Args {
    values: Map<String, Value>,
    /// Names of fields that the tool does not have.
    pub(super) unknown: Vec<String>,
}

impl Args {
    /// The error is a sentence for the model.
    pub(super) fn parse(spec: &ToolSpec, arguments: &str) -> Result<Args, String> {
        let wrong = |what: &str| format!("{}: {what}. Write the call again.", spec.name);
        let invalid = |why: &str| wrong(&format!("the arguments are not valid JSON: {why}"));
        let mut given = match json::parse(arguments) {
            Ok(Value::Object(given)) => given,
            Ok(_) => return Err(wrong("the arguments must be an object")),
            Err(err) => return Err(invalid(&err.to_string())),
        };
        if given.contains_key(INVALID_JSON) {
            let why = given.get("why").and_then(Value::as_str);
            return Err(invalid(why.unwrap_or_default()));
        }
        if let Some(inside) = unwrapped(&mut given) {
            given = inside;
        }
        // Some models write null for an argument that they leave out.
        given.retain(|_, value| !value.is_null());
        let schema: Value = json::parse(spec.schema).unwrap_or_default();
        let mut values = Map::new();
        for (name, field_type, aliases) in FIELDS {
            if schema["properties"][name].is_null() {
                continue;
            }
            let value = match take(&mut given, name, aliases) {
                // Some models write "" for a number that they leave out.
                Some(Value::String(text))
                    if text.is_empty() && matches!(field_type, FieldType::Number) =>
                {
                    continue;
                }
                Some(value) => coerce(value, field_type)
                    .map_err(|why| wrong(&format!("`{name}` must be {why}")))?,
                // The label is only for people; the call is clear without it.
                None if name == "label" => Value::from(spec.name),
                None if json::strings(&schema["required"]).any(|required| required == name) => {
                    return Err(wrong(&format!("`{name}` is missing")));
                }
                None => continue,
            };
            values.insert(name.to_owned(), value);
        }
        Ok(Args {
            values,
            unknown: given.into_iter().map(|(name, _)| name).collect(),
        })
    }

    /// A required field; its presence was checked.
    pub(super) fn str(&self, name: &str) -> &str {
        self.opt_str(name).unwrap_or_default()
    }

    pub(super) fn opt_str(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Value::as_str)
    }

    pub(super) fn without_label(mut self) -> Map<String, Value> {
        self.values.remove("label");
        self.values
    }

    pub(super) fn opt_number(&self, name: &str) -> Option<f64> {
        self.values.get(name).and_then(Value::as_f64)
    }
}

/// The inner object: some models put the arguments into an object of their own.
fn unwrapped(given: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    const WRAPPERS: [&str; 4] = ["arguments", "parameters", "input", "args"];
    let wrapper = WRAPPERS.iter().find(|name| given.contains_key(**name));
    match given.remove(*wrapper.filter(|_| given.len() == 1)?) {
        Some(Value::Object(inside)) => Some(inside),
        _ => None,
    }
}

/// Removes and returns the field, by its name or one of its aliases.
fn take(given: &mut Map<String, Value>, name: &str, aliases: &[&str]) -> Option<Value> {
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let is_alias = |key: &str| key == plain(name) || aliases.contains(&key);
    let alias = || given.keys().find(|key| is_alias(&plain(key))).cloned();
    let key = if given.contains_key(name) {
        name.to_owned()
    } else {
        alias()?
    };
    given.remove(&key)
}

/// The value converted to the field's type; the error completes a sentence with "must be".
fn coerce(value: Value, wanted: FieldType) -> Result<Value, String> {
    let fitting = match (wanted, &value) {
        (FieldType::Text, Value::String(_)) | (FieldType::Number, Value::Number(_)) => {
            return Ok(value);
        }
        (FieldType::Text, Value::Number(_) | Value::Bool(_)) => Some(json::text(&value).into()),
        (FieldType::Number, Value::String(text)) => json::number(text.trim()).map(Value::from),
        _ => None,
    };
    fitting.ok_or_else(|| {
        let wanted = match wanted {
            FieldType::Number => "a number",
            FieldType::Text => "a string",
        };
        let given = text::one_line(&json::text(&value), VALUE_CHARS_MAX);
        format!("{wanted}, not {given}")
    })
}

/// What a person reads while the call runs: its `label`, or the tool's name. One line.
pub(crate) fn label(call: &ToolCall) -> String {
    let args: Value = json::parse(&call.arguments).unwrap_or_default();
    let label = text::one_line(args["label"].as_str().unwrap_or_default(), 150);
    if label.is_empty() {
        text::one_line(&call.name, 150)
    } else {
        label
    }
}

/// The arguments as a person reads them: values without names, one per line, without the label.
pub(crate) fn arguments_text(call: &ToolCall) -> String {
    let Ok(Value::Object(mut args)) = json::parse(&call.arguments) else {
        return call.arguments.clone();
    };
    if let Some(Value::String(text)) = args.remove(INVALID_JSON) {
        return text;
    }
    let mut lines = Vec::new();
    args.remove("label");
    // In the order of `FIELDS`: serde_json sorts the keys by name.
    for (name, ..) in FIELDS {
        let Some(value) = args.remove(name) else {
            continue;
        };
        let mut line = value_text(&value);
        if name == "path" {
            line += &line_range(args.remove("offset"), args.remove("limit"));
        }
        lines.push(line);
    }
    lines.extend(args.values().map(value_text));
    lines.join("\n")
}

/// The whole call for the person who decides whether it may run: like `arguments_text`, but an
/// edit as lines to remove (`-`) and lines to add (`+`).
pub(crate) fn proposal_text(call: &ToolCall) -> String {
    let args: Value = json::parse(&call.arguments).unwrap_or_default();
    let field = |name: &str| args[name].as_str();
    match (field("path"), field("oldText"), field("newText")) {
        (Some(path), Some(old), Some(new)) if call.name == "edit" => {
            let mut lines = vec![path.to_owned()];
            lines.extend(old.split('\n').map(|line| format!("- {line}")));
            lines.extend(new.split('\n').map(|line| format!("+ {line}")));
            lines.join("\n")
        }
        _ => arguments_text(call),
    }
}

fn value_text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| json::text(value), str::to_owned)
}

/// `:120-160` behind a path, for an offset of 120 and a limit of 40.
fn line_range(offset: Option<Value>, limit: Option<Value>) -> String {
    let number = |value: Option<Value>| Some(value?.as_f64()? as u64);
    match (number(offset), number(limit)) {
        (None, None) => String::new(),
        (Some(offset), None) => format!(":{offset}"),
        (offset, Some(limit)) => {
            let offset = offset.unwrap_or(1);
            format!(":{offset}-{}", offset.saturating_add(limit))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{TOOLS, specs};

    #[test]
    fn what_is_meant_is_understood() {
        for row in [
            r#"bash {"command":"ls"} => {"command":"ls","label":"bash"}"#,
            r#"bash {"label":null,"cmd":"ls","timeout":" 30 "} => {"command":"ls","label":"bash","timeout":30.0}"#,
            r#"read {"label":"L","file_path":7,"Offset":"2","limit":3} => {"label":"L","limit":3,"offset":2.0,"path":"7"}"#,
            r#"edit {"description":"d","path":"p","old_string":"a","new_text":true} => {"label":"d","newText":"true","oldText":"a","path":"p"}"#,
            r#"bash {"command":"ls","cwd":"/","x":null} => {"command":"ls","label":"bash"} cwd"#,
            r#"bash {"arguments":{"command":"ls","timeout":""}} => {"command":"ls","label":"bash"}"#,
            r#"bash {"input":"ls"} => bash: `command` is missing"#,
            "bash [] => bash: the arguments must be an object",
            r#"bash {"label": => bash: the arguments are not valid JSON: EOF while parsing a value at line 1 column 9"#,
            r#"bash {"invalid_json":"{a","why":"key must be a string"} => bash: the arguments are not valid JSON: key must be a string"#,
            "bash {} => bash: `command` is missing",
            r#"bash {"command":["ls"]} => bash: `command` must be a string, not ["ls"]"#,
            r#"bash {"command":"ls","timeout":"soon"} => bash: `timeout` must be a number, not "soon""#,
            r#"edit {"path":"a","oldText":"b"} => edit: `newText` is missing"#,
        ] {
            let (call, want) = row.split_once(" => ").unwrap();
            let (tool, arguments) = call.split_once(' ').unwrap();
            let tool = TOOLS.iter().find(|known| known.spec.name == tool).unwrap();
            let got = match Args::parse(&tool.spec, arguments) {
                Ok(args) => {
                    let values = Value::Object(args.values).to_string();
                    format!("{values} {}", args.unknown.join(" "))
                }
                Err(why) => why.replace(". Write the call again.", ""),
            };
            assert_eq!(got.trim_end(), want, "{arguments}");
        }
    }

    #[test]
    fn the_table_has_the_fields_of_all_schemas() {
        for spec in specs() {
            let schema: Value = serde_json::from_str(spec.schema).unwrap();
            for (name, field) in schema["properties"].as_object().unwrap() {
                let known = FIELDS.iter().find(|(known, ..)| known == name);
                let is_number = known.unwrap().1 == FieldType::Number;
                assert_eq!(field["type"] == "number", is_number, "{name}");
            }
        }
    }

    #[test]
    fn labels_and_arguments_for_people() {
        for row in [
            r#"bash {"command":"ls\n-l","label":"List\nit","timeout":5} => "List it" "ls\n-l\n5""#,
            r#"read {"limit":40,"path":"/a","offset":120,"label":"L"} => "L" "/a:120-160""#,
            r#"read {"label":" ","path":"/a","limit":3} => "read" "/a:1-4""#,
            r#"read {"path":"/a","offset":3} => "read" "/a:3""#,
            r#"edit {"newText":"n","oldText":"o","path":"p","label":"E"} => "E" "p\no\nn""#,
            r#"other {"b":[1],"a":"x"} => "other" "x\n[1]""#,
            r#"bash not json => "bash" "not json""#,
            r#"bash {"invalid_json":"{a","why":"w"} => "bash" "{a""#,
        ] {
            let (text, want) = row.split_once(" => ").unwrap();
            let (name, arguments) = text.split_once(' ').unwrap();
            let call = ToolCall {
                id: String::from("1"),
                name: name.to_owned(),
                arguments: arguments.to_owned(),
                signature: None,
            };
            let got = format!("{:?} {:?}", label(&call), arguments_text(&call));
            assert_eq!(got, want);
        }
    }
}

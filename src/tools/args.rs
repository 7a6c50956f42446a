//! The arguments of a call: read against the tool's schema, forgiving where there is no doubt
//! about what is meant; and as a person reads them.
//!
//! `llm` has mended the JSON before, as far as it can be mended.

use serde_json::{Map, Value};

use super::find;
use crate::base::text;
use crate::llm::{ToolCall, ToolSpec};

/// Set by `llm` in place of arguments that are not JSON: the text, and what is wrong with it.
const INVALID_JSON: &str = "invalid_json";
/// Characters of a wrong value that its error shows.
const VALUE_CHARS_MAX: usize = 60;

/// Names that models give to our fields, in lower case and without `_` and `-`.
const ALIASES: [(&str, &[&str]); 7] = [
    ("label", &["description"]),
    ("path", &["filepath", "filename", "file"]),
    ("command", &["cmd", "script"]),
    ("timeout", &["timeoutseconds", "timeoutsecs"]),
    ("content", &["contents", "text", "filetext"]),
    ("oldText", &["oldstring", "oldstr", "old"]),
    ("newText", &["newstring", "newstr", "new"]),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum FieldType {
    Number,
    Text,
}

struct SchemaField {
    name: String,
    field_type: FieldType,
    required: bool,
}

/// A schema's fields, the required ones first and in their order.
fn fields(spec: &ToolSpec) -> Vec<SchemaField> {
    let schema: Value = serde_json::from_str(spec.schema).unwrap_or_default();
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut names: Vec<&str> = required.iter().filter_map(Value::as_str).collect();
    let all = schema["properties"].as_object().into_iter().flatten();
    names.extend(
        all.map(|(name, _)| name.as_str())
            .filter(|name| required.iter().all(|known| known != name)),
    );
    let field = |(index, name): (usize, &&str)| SchemaField {
        name: (*name).to_owned(),
        field_type: if schema["properties"][*name]["type"] == "number" {
            FieldType::Number
        } else {
            FieldType::Text
        },
        required: index < required.len(),
    };
    names.iter().enumerate().map(field).collect()
}

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
        let mut given = match serde_json::from_str(arguments) {
            Ok(Value::Object(given)) => given,
            Ok(_) => return Err(wrong("the arguments must be an object")),
            Err(err) => return Err(wrong(&format!("the arguments are not valid JSON: {err}"))),
        };
        if given.contains_key(INVALID_JSON) {
            let why = given.get("why").and_then(Value::as_str).unwrap_or_default();
            return Err(wrong(&format!("the arguments are not valid JSON: {why}")));
        }
        // Some models write null for what they leave out.
        given.retain(|_, value| !value.is_null());
        let mut values = Map::new();
        for field in fields(spec) {
            let name = field.name.as_str();
            let value = match take(&mut given, name) {
                Some(value) => value,
                // People only miss the words; the call is clear without them.
                None if name == "label" => Value::from(spec.name),
                None if field.required => return Err(wrong(&format!("`{name}` is missing"))),
                None => continue,
            };
            let value = coerce(value, field.field_type)
                .map_err(|why| wrong(&format!("`{name}` must be {why}")))?;
            values.insert(field.name, value);
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

    pub(super) fn opt_number(&self, name: &str) -> Option<f64> {
        self.values.get(name).and_then(Value::as_f64)
    }
}

/// Takes the field out, by its name or another name that means it.
fn take(given: &mut Map<String, Value>, name: &str) -> Option<Value> {
    if let Some(value) = given.remove(name) {
        return Some(value);
    }
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let aliases = ALIASES.iter().find(|(field, _)| *field == name);
    let aliases = aliases.map_or(&[][..], |(_, aliases)| aliases);
    let meant = |given: &&String| {
        let given = plain(given);
        given == plain(name) || aliases.contains(&given.as_str())
    };
    let key = given.keys().find(meant).cloned()?;
    given.remove(&key)
}

/// The value as the field's type; the error ends a sentence that begins with "must be".
fn coerce(value: Value, field_type: FieldType) -> Result<Value, String> {
    let fitting = match (&value, field_type) {
        (Value::String(_), FieldType::Text) => Some(value.clone()),
        (Value::Number(_) | Value::Bool(_), FieldType::Text) => Some(value.to_string().into()),
        (Value::Number(_), FieldType::Number) => Some(value.clone()),
        (Value::String(text), FieldType::Number) => {
            let number = text.trim().parse::<f64>().ok();
            number
                .and_then(serde_json::Number::from_f64)
                .map(Value::Number)
        }
        _ => None,
    };
    fitting.ok_or_else(|| {
        let wanted = match field_type {
            FieldType::Number => "a number",
            FieldType::Text => "a string",
        };
        let given = text::one_line(&value.to_string(), VALUE_CHARS_MAX);
        format!("{wanted}, not {given}")
    })
}

/// What a person reads while the call runs: its `label`, or the tool's name. One line.
pub(crate) fn label(call: &ToolCall) -> String {
    let args: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    let label = text::one_line(args["label"].as_str().unwrap_or_default(), 150);
    if label.is_empty() {
        text::one_line(&call.name, 150)
    } else {
        label
    }
}

/// The arguments as a person reads them: values only, one a line, label left out.
pub(crate) fn arguments_text(call: &ToolCall) -> String {
    let Ok(Value::Object(mut args)) = serde_json::from_str(&call.arguments) else {
        return call.arguments.clone();
    };
    if let Some(Value::String(text)) = args.remove(INVALID_JSON) {
        return text;
    }
    let mut lines = Vec::new();
    args.remove("label");
    // serde_json sorts the keys; a person wants to see them as the schema has them.
    let fields = find(&call.name).map(|tool| fields(&tool.spec));
    for field in fields.unwrap_or_default() {
        let Some(value) = args.remove(&field.name) else {
            continue;
        };
        let mut line = value_text(&value);
        if field.name == "path" {
            line += &line_range(args.remove("offset"), args.remove("limit"));
        }
        lines.push(line);
    }
    lines.extend(args.values().map(value_text));
    lines.join("\n")
}

/// The whole call for someone who decides whether it may run: like `arguments_text`, with an
/// edit as the lines that go and those that come.
pub(crate) fn proposal_text(call: &ToolCall) -> String {
    let args: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
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
        .map_or_else(|| value.to_string(), str::to_owned)
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
    use crate::tools::specs;

    #[test]
    fn what_is_meant_is_understood() {
        for (tool, arguments, want) in [
            (
                "bash",
                r#"{"command":"ls"}"#,
                r#"{"command":"ls","label":"bash"}"#,
            ),
            (
                "bash",
                r#"{"label":null,"cmd":"ls","timeout":" 30 "}"#,
                r#"{"command":"ls","label":"bash","timeout":30.0}"#,
            ),
            (
                "read",
                r#"{"label":"L","file_path":7,"Offset":"2","limit":3}"#,
                r#"{"label":"L","limit":3,"offset":2.0,"path":"7"}"#,
            ),
            (
                "edit",
                r#"{"description":"d","path":"p","old_string":"a","new_text":true}"#,
                r#"{"label":"d","newText":"true","oldText":"a","path":"p"}"#,
            ),
            (
                "bash",
                r#"{"command":"ls","cwd":"/","x":null}"#,
                r#"{"command":"ls","label":"bash"} cwd"#,
            ),
            (
                "bash",
                "[]",
                "bash: the arguments must be an object. Write the call again.",
            ),
            (
                "bash",
                r#"{"label":"#,
                "bash: the arguments are not valid JSON: EOF while parsing a value at line 1 column 9. Write the call again.",
            ),
            (
                "bash",
                r#"{"invalid_json":"{a","why":"key must be a string at line 1 column 2"}"#,
                "bash: the arguments are not valid JSON: key must be a string at line 1 column 2. Write the call again.",
            ),
            (
                "bash",
                "{}",
                "bash: `command` is missing. Write the call again.",
            ),
            (
                "bash",
                r#"{"command":["ls"]}"#,
                "bash: `command` must be a string, not [\"ls\"]. Write the call again.",
            ),
            (
                "bash",
                r#"{"command":"ls","timeout":"soon"}"#,
                "bash: `timeout` must be a number, not \"soon\". Write the call again.",
            ),
            (
                "edit",
                r#"{"path":"a","oldText":"b"}"#,
                "edit: `newText` is missing. Write the call again.",
            ),
        ] {
            let spec = find(tool).unwrap().spec;
            let got = match Args::parse(&spec, arguments) {
                Ok(args) => {
                    let values = Value::Object(args.values).to_string();
                    format!("{values} {}", args.unknown.join(" "))
                }
                Err(why) => why,
            };
            assert_eq!(got.trim_end(), want, "{arguments}");
        }
    }

    #[test]
    fn labels_and_arguments_for_people() {
        for (name, arguments, label_want, want) in [
            (
                "bash",
                r#"{"command":"ls\n-l","label":"List\nit","timeout":5}"#,
                "List it",
                "ls\n-l\n5",
            ),
            (
                "read",
                r#"{"limit":40,"path":"/a","offset":120,"label":"L"}"#,
                "L",
                "/a:120-160",
            ),
            (
                "read",
                r#"{"label":" ","path":"/a","limit":3}"#,
                "read",
                "/a:1-4",
            ),
            ("read", r#"{"path":"/a","offset":3}"#, "read", "/a:3"),
            (
                "edit",
                r#"{"newText":"n","oldText":"o","path":"p","label":"E"}"#,
                "E",
                "p\no\nn",
            ),
            ("other", r#"{"b":[1],"a":"x"}"#, "other", "x\n[1]"),
            ("bash", "not json", "bash", "not json"),
            ("bash", r#"{"invalid_json":"{a","why":"w"}"#, "bash", "{a"),
        ] {
            let call = ToolCall {
                id: String::from("1"),
                name: name.to_owned(),
                arguments: arguments.to_owned(),
                signature: None,
            };
            assert_eq!(
                (label(&call).as_str(), arguments_text(&call).as_str()),
                (label_want, want)
            );
        }
        for spec in specs() {
            let required = fields(&spec).iter().filter(|field| field.required).count();
            assert!(
                required >= 2 && fields(&spec)[0].name == "label",
                "{}",
                spec.name
            );
        }
    }
}

//! JSON objects written in a given key order, with pieces spliced in as they are.
//!
//! serde_json's own map sorts its keys; the data directory's files have a fixed order, and
//! a tool call's arguments must go back to the model byte for byte. Reading is serde_json's.

use serde_json::Value;

/// `Obj::new().str("type", "text").str("text", text).end()`
pub(crate) struct Obj(String);

impl Obj {
    pub(crate) fn new() -> Obj {
        Obj(String::from("{"))
    }

    /// `json` must be a whole JSON value.
    pub(crate) fn raw(mut self, key: &str, json: &str) -> Obj {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quote(key));
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    pub(crate) fn str(self, key: &str, text: &str) -> Obj {
        self.raw(key, &quote(text))
    }

    pub(crate) fn opt_str(self, key: &str, text: Option<&str>) -> Obj {
        match text {
            Some(text) => self.str(key, text),
            None => self,
        }
    }

    pub(crate) fn num(self, key: &str, number: impl Into<serde_json::Number>) -> Obj {
        self.raw(key, &number.into().to_string())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Obj {
        self.raw(key, if value { "true" } else { "false" })
    }

    pub(crate) fn value(self, key: &str, value: &Value) -> Obj {
        self.raw(key, &value.to_string())
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// `items` are whole JSON values.
pub(crate) fn array<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let mut out = String::from("[");
    for item in items {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(item.as_ref());
    }
    out.push(']');
    out
}

/// `text` as a JSON string, quotes included.
pub(crate) fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_raw_pieces() {
        let line = Obj::new()
            .str("z", "a\"b")
            .raw("args", "{\"b\":1, \"a\":2}")
            .raw("list", &array(["1", "2"]))
            .opt_str("none", None)
            .num("n", 3)
            .bool("ok", true)
            .end();
        assert_eq!(
            line,
            r#"{"z":"a\"b","args":{"b":1, "a":2},"list":[1,2],"n":3,"ok":true}"#
        );
    }
}

//! The Slack app: its manifest, the link that creates it, and its scopes. The JSON file next to
//! this one is the only list of scopes; all other code reads it.

use serde_json::Value;

use crate::base::json;

pub(crate) const MANIFEST: &str = include_str!("manifest.json");

/// Steps that a manifest can't do, in order.
pub(crate) const STEPS: &str = "\
By hand after that:
  1. Basic Information > App-Level Tokens: generate one with the scope connections:write;
     it starts with xapp- and goes into MOM_SLACK_APP_TOKEN.
  2. Install App: install it to the workspace; the Bot User OAuth Token starts with xoxb-
     and goes into MOM_SLACK_BOT_TOKEN.
  3. In Slack: /invite @mom in each channel that mom is to work in.
  4. mom --check ./data
";

pub(crate) fn scopes() -> Vec<String> {
    json::strings(&parsed()["oauth_config"]["scopes"]["bot"]).collect()
}

/// A link below the 8 kB that browsers and Slack accept.
pub(crate) fn create_link() -> String {
    let compact = json::text(&parsed());
    let mut link = String::from("https://api.slack.com/apps?new_app=1&manifest_json=");
    for byte in compact.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            link.push(char::from(byte));
        } else {
            link.push_str(&format!("%{byte:02X}"));
        }
    }
    link
}

fn parsed() -> Value {
    json::parse(MANIFEST).expect("a file of this crate, parsed in the tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_and_scopes_come_from_the_file() {
        assert!(scopes().iter().any(|scope| scope == "chat:write"));
        let link = create_link();
        assert!(link.len() < 8000, "{}", link.len());
        assert!(link.contains("%22socket_mode_enabled%22%3Atrue"), "{link}");
    }
}

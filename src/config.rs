//! Configuration from outside: command line, environment, key files. Nothing comes from the
//! data directory: the agent can write there, so nothing in it configures the host.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::log;
use crate::base::secret::Secret;
use crate::cli::Options;
use crate::net;

pub(crate) const MODEL_DEFAULT: &str = "anthropic/claude-sonnet-5-5";
pub(crate) const SLACK_API_DEFAULT: &str = "https://slack.com/api";
pub(crate) const APP_TOKEN: &str = "MOM_SLACK_APP_TOKEN";
pub(crate) const BOT_TOKEN: &str = "MOM_SLACK_BOT_TOKEN";

/// The configuration: plain data, read once at start.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// As typed; `Sandbox::parse` reads it.
    pub(crate) sandbox: String,
    /// `PROVIDER/ID`
    pub(crate) model: String,
    /// `IN,OUT[,CACHED]`, dollars per million tokens, as typed.
    pub(crate) price: Option<String>,
    /// Dollars a day, as typed.
    pub(crate) budget: Option<String>,
    /// `None`: everyone.
    pub(crate) allow_users: Option<Vec<String>>,
    pub(crate) allow_channels: Option<Vec<String>>,
    pub(crate) approve: ApprovalMode,
    /// Whether people need not mention mom in threads in which it answered.
    pub(crate) follow_threads: bool,
    /// Without a trailing slash.
    pub(crate) slack_api_url: String,
}

impl Config {
    pub(crate) fn new(options: &Options) -> Result<Config> {
        // `--allow-users`, else MOM_ALLOW_USERS.
        let set = |name: &str| {
            let from_env = || variable(&format!("MOM_{}", name.to_uppercase().replace('-', "_")));
            options.get(name).or_else(from_env)
        };
        let url = variable("MOM_SLACK_API_URL").unwrap_or_else(|| SLACK_API_DEFAULT.to_owned());
        let follow_threads = options.get("follow-threads").is_some()
            || variable("MOM_FOLLOW_THREADS").is_some_and(|value| value.trim() == "1");
        Ok(Config {
            sandbox: options.get("sandbox").unwrap_or_else(|| "host".to_owned()),
            model: set("model").unwrap_or_else(|| MODEL_DEFAULT.to_owned()),
            price: set("price"),
            budget: set("budget"),
            allow_users: set("allow-users").map(ids),
            allow_channels: set("allow-channels").map(ids),
            approve: ApprovalMode::parse(set("approve").as_deref().unwrap_or("off"))?,
            follow_threads,
            slack_api_url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// The setting for threads, as a sentence.
    pub(crate) fn threads(&self) -> &'static str {
        match self.follow_threads {
            true => "followed, after an answer there no mention is needed for a day",
            false => "not followed, each request needs a mention",
        }
    }
}

/// Which tool calls need a person's approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApprovalMode {
    Off,
    /// Calls that can change something in the sandbox.
    Changes,
    All,
}

impl ApprovalMode {
    fn parse(typed: &str) -> Result<ApprovalMode> {
        match typed.trim() {
            "off" => Ok(ApprovalMode::Off),
            "changes" => Ok(ApprovalMode::Changes),
            "all" => Ok(ApprovalMode::All),
            _ => Err(Error::Usage(format!(
                "--approve={typed}: use off, changes or all (also in MOM_APPROVE)"
            ))),
        }
    }
}

/// The setting as a sentence.
impl fmt::Display for ApprovalMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ApprovalMode::Off => "off, tools run without asking",
            ApprovalMode::Changes => "changes, a person approves each bash, write and edit call",
            ApprovalMode::All => "all, a person approves each call",
        })
    }
}

fn ids(list: String) -> Vec<String> {
    let ids = list.split([',', ' ']).filter(|id| !id.is_empty());
    ids.map(str::to_owned).collect()
}

/// The value of an environment variable, if it is set and not blank.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Tokens and keys from all sources: environment, auth.json, systemd credentials.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    environment: HashMap<String, Secret>,
    /// `~/.pi/mom/auth.json`, shared with the original.
    auth: Option<Value>,
    /// `$CREDENTIALS_DIRECTORY`, set by systemd for LoadCredential=.
    credentials: Option<PathBuf>,
    /// Keys that auth.json gives as a command or a variable: the result by its text in the file.
    named: Mutex<HashMap<String, Secret>>,
}

impl Keys {
    /// Reads the secrets. Before that it makes /proc/PID unreadable for mom's own user: tools on
    /// the host could read there the environment that mom was started with.
    pub(crate) fn take() -> Keys {
        // Errors are ignored: where this is not allowed, mom runs without it.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
        let secrets = secret_variables()
            .filter_map(|name| Some((name.clone(), Secret::new(&variable(&name)?))));
        Keys {
            environment: secrets.collect(),
            auth: auth_file(),
            credentials: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            named: Mutex::default(),
        }
    }

    /// A key by the name of its variable: the environment, then systemd's credentials.
    pub(crate) fn variable(&self, name: &str) -> Option<Secret> {
        if let Some(secret) = self.environment.get(name) {
            return Some(secret.clone());
        }
        let text = fs::read_to_string(self.credentials.as_ref()?.join(name)).ok()?;
        Some(Secret::new(&text)).filter(|secret| !secret.expose().is_empty())
    }

    /// A provider's key: from auth.json (as in the original), else from the first variable set.
    pub(crate) fn provider(&self, provider: &str, variables: &[&str]) -> Result<Option<Secret>> {
        let entry = self.auth.as_ref().and_then(|auth| auth.get(provider));
        let entry = entry.map_or(Ok(None), |entry| self.auth_entry(provider, entry));
        if let Ok(Some(_)) = &entry {
            return entry;
        }
        let found = variables.iter().find_map(|name| self.variable(name));
        // An error in the entry matters only if no variable has a key.
        found.map_or(entry, |secret| Ok(Some(secret)))
    }

    /// Every secret that must never be printed.
    pub(crate) fn all(&self) -> Vec<Secret> {
        let mut all: Vec<Secret> = self.environment.values().cloned().collect();
        all.extend(self.named.lock().unwrap().values().cloned());
        let entries = self.auth.as_ref().and_then(Value::as_object);
        for entry in entries.into_iter().flat_map(|entries| entries.values()) {
            let fields = ["key", "access", "refresh"].map(|field| entry[field].as_str());
            all.extend(fields.into_iter().flatten().map(Secret::new));
        }
        let files = self
            .credentials
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok());
        let texts = files
            .flatten()
            .flatten()
            .map(|file| fs::read_to_string(file.path()));
        all.extend(texts.flatten().map(|text| Secret::new(&text)));
        let values = env::vars_os().filter_map(|(_, value)| value.into_string().ok());
        all.extend(values.filter_map(|value| login(&value)));
        all.extend(net::proxy_secrets());
        all
    }

    fn auth_entry(&self, provider: &str, entry: &Value) -> Result<Option<Secret>> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        match (text("type"), text("key")) {
            (Some("api_key"), Some(key)) if !key.trim().is_empty() => {
                let mut named = self.named.lock().unwrap();
                if let Some(secret) = named.get(key) {
                    return Ok(Some(secret.clone()));
                }
                let secret = match key.strip_prefix('!') {
                    Some(command) => key_from_command(provider, command)?,
                    None => {
                        let found = self.environment.get(key).cloned();
                        let found = found.or_else(|| variable(key).map(|text| Secret::new(&text)));
                        found.unwrap_or_else(|| Secret::new(key))
                    }
                };
                named.insert(key.to_owned(), secret.clone());
                Ok(Some(secret))
            }
            (Some("oauth"), _) => Err(Error::Failed(format!(
                "the entry {provider:?} in ~/.pi/mom/auth.json is a subscription login, which \
                 mom can't use: put an API key there or set its variable"
            ))),
            _ => Ok(None),
        }
    }
}

/// Names of the environment's variables that hold secrets.
fn secret_variables() -> impl Iterator<Item = String> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| {
        let mut ends = ["_TOKEN", "_KEY", "_SECRET", "_PASSWORD"].iter();
        ends.any(|end| name.ends_with(end))
    })
}

/// The `user:password` part of a URL, as it is written.
fn login(url: &str) -> Option<Secret> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split('/').next()?.rsplit_once('@')?;
    Some(Secret::new(login))
}

/// `~/.pi/mom/auth.json`
pub(crate) fn auth_path() -> Option<PathBuf> {
    Some(Path::new(&variable("HOME")?).join(".pi/mom/auth.json"))
}

/// The content of auth.json; `None` if it is absent, unreadable or broken.
fn auth_file() -> Option<Value> {
    let path = auth_path()?;
    let shown = path.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
        Err(err) => {
            log::warning!("", "cannot read {shown}: {err}; its keys are not used");
            return None;
        }
    };
    if is_open(&path) {
        log::warning!("", "{shown} can be read by others: chmod 600 {shown}");
    }
    let value = json::parse(&text).inspect_err(|err| {
        log::warning!(
            "",
            "{shown} is not valid JSON ({err}); its keys are not used"
        );
    });
    value.ok()
}

/// Whether anyone but the owner has a permission on the file.
pub(crate) fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// Runs a key command, like `!pass show openai`: its trimmed output is the key. `timeout` (from
/// coreutils or busybox) limits it to 10 s, as in the original.
fn key_from_command(provider: &str, command: &str) -> Result<Secret> {
    let failed = |why: String| {
        let whose = format!("the key command of {provider:?} in ~/.pi/mom/auth.json");
        Error::Failed(format!("{whose} failed: {why}"))
    };
    let mut asked = Command::new("timeout");
    asked.args(["10", "sh", "-c", command]);
    for name in secret_variables() {
        asked.env_remove(name);
    }
    let output = asked.output().map_err(|err| failed(err.to_string()))?;
    let key = Secret::new(&String::from_utf8_lossy(&output.stdout));
    match key.expose().len() {
        1.. if output.status.success() => Ok(key),
        bytes => Err(failed(format!(
            "{}, {bytes} bytes of output",
            output.status
        ))),
    }
}

/// One of the two Slack tokens.
struct TokenKind {
    variable: &'static str,
    /// How the token begins.
    start: &'static str,
    /// Where the token is in the app's settings.
    place: &'static str,
}

const APP_KIND: TokenKind = TokenKind {
    variable: APP_TOKEN,
    start: "xapp-",
    place: "Basic Information > App-Level Tokens, scope connections:write",
};
const BOT_KIND: TokenKind = TokenKind {
    variable: BOT_TOKEN,
    start: "xoxb-",
    place: "Install App > Bot User OAuth Token",
};

impl TokenKind {
    /// `MOM_SLACK_APP_TOKEN (xapp-..., from PLACE)`
    fn wanted(&self) -> String {
        format!("{} ({}..., from {})", self.variable, self.start, self.place)
    }

    fn check(&self, token: Secret) -> Result<Secret> {
        let (name, place) = (self.variable, self.place);
        let rest = token.expose().strip_prefix(self.start);
        let why = match rest.map(|rest| rest.trim_matches('.')) {
            None => format!("does not start with {}", self.start),
            Some("") => "is the README's placeholder".to_owned(),
            Some(_) => return Ok(token),
        };
        Err(Error::Failed(format!(
            "{name} {why}; take the token from the app's settings: {place}"
        )))
    }
}

/// The bot token alone, which is enough to read from Slack.
pub(crate) fn bot_token(keys: &Keys) -> Result<Secret> {
    let token = keys.variable(BOT_TOKEN).ok_or_else(|| {
        let wanted = BOT_KIND.wanted();
        Error::Failed(format!(
            "no Slack token in {wanted}; `mom --manifest` creates the app"
        ))
    })?;
    BOT_KIND.check(token)
}

/// Both Slack tokens, or one message that names what is missing or swapped and where to
/// get it.
pub(crate) fn slack_tokens(keys: &Keys) -> Result<(Secret, Secret)> {
    let (app, bot) = match (keys.variable(APP_TOKEN), keys.variable(BOT_TOKEN)) {
        (Some(app), Some(bot)) => (app, bot),
        (app, bot) => {
            let mut missing = Vec::new();
            missing.extend(app.is_none().then(|| APP_KIND.wanted()));
            missing.extend(bot.is_none().then(|| BOT_KIND.wanted()));
            return Err(Error::Failed(format!(
                "no Slack token in {}; `mom --manifest` creates the app, `mom --chat` works \
                 without Slack",
                missing.join(" and ")
            )));
        }
    };
    let starts = |token: &Secret, kind: &TokenKind| token.expose().starts_with(kind.start);
    if starts(&app, &BOT_KIND) && starts(&bot, &APP_KIND) {
        return Err(Error::Failed(format!(
            "the Slack tokens are swapped; {APP_TOKEN} takes the xapp- token, {BOT_TOKEN} the \
             xoxb- token"
        )));
    }
    Ok((APP_KIND.check(app)?, BOT_KIND.check(bot)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)], auth: Option<&str>) -> Keys {
        Keys {
            environment: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Secret::new(value)))
                .collect(),
            auth: auth.map(|text| serde_json::from_str(text).unwrap()),
            credentials: None,
            named: Mutex::default(),
        }
    }

    #[test]
    fn slack_tokens_say_what_is_wrong() {
        for (app, bot, want) in [
            ("", "", "MOM_SLACK_APP_TOKEN (xapp-"),
            ("xapp-1", "", "no Slack token in MOM_SLACK_BOT_TOKEN"),
            ("xoxb-1", "xapp-1", "swapped"),
            (
                "xapp-...",
                "xoxb-1",
                "MOM_SLACK_APP_TOKEN is the README's placeholder",
            ),
            (
                "xapp-1",
                "xoxp-1",
                "MOM_SLACK_BOT_TOKEN does not start with xoxb-",
            ),
        ] {
            let pairs: Vec<_> = [(APP_TOKEN, app), (BOT_TOKEN, bot)]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect();
            let text = slack_tokens(&keys(&pairs, None)).unwrap_err().to_string();
            assert!(text.contains(want), "{app} {bot}: {text}");
        }
        assert!(slack_tokens(&keys(&[(APP_TOKEN, "xapp-1"), (BOT_TOKEN, "xoxb-1")], None)).is_ok());
    }

    #[test]
    fn auth_file_beats_the_environment() {
        let auth = r#"{"a":{"type":"api_key","key":"literal-key"},
            "b":{"type":"api_key","key":"B_VAR_KEY"},
            "c":{"type":"api_key","key":"!printf ' from-command\n'"},
            "d":{"type":"api_key","key":"!exit 3"},
            "blank":{"type":"api_key","key":" "},
            "e":{"type":"oauth","access":"x","refresh":"y","expires":1}}"#;
        let keys = keys(&[("A_KEY", "from-env"), ("B_VAR_KEY", "named")], Some(auth));
        let key = |provider| {
            let found = keys.provider(provider, &["X_KEY", "A_KEY"]);
            found.map(|key| key.map(|key| key.expose().to_owned()))
        };
        assert_eq!(key("a").unwrap().as_deref(), Some("literal-key"));
        assert_eq!(key("b").unwrap().as_deref(), Some("named"));
        assert_eq!(key("c").unwrap().as_deref(), Some("from-command"));
        for provider in ["d", "e"] {
            assert!(keys.provider(provider, &["X_KEY"]).is_err());
        }
        let why = keys.provider("e", &["X_KEY"]).unwrap_err().to_string();
        assert!(why.contains("API key"), "{why}");
        for provider in ["d", "e", "blank", "other"] {
            assert_eq!(key(provider).unwrap().as_deref(), Some("from-env"));
        }
        for known in ["named", "from-command", "literal-key", "from-env"] {
            assert!(keys.all().contains(&Secret::new(known)), "{known}");
        }
    }
}

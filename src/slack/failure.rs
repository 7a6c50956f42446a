//! Why a call of the Web API failed, as a text with the fix, and what the failure means for the
//! caller.

use std::fmt;
use std::time::Duration;

use crate::base::error::Error;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// `ok:false` with this code; `missing_scope` names the scope behind a colon.
    Refused(String),
    /// The rate limit forbids the call for this long.
    Limited(Duration),
    /// Sent, but not answered: it may have been done.
    Unknown(String),
    /// Slack did not carry it out.
    Failed(String),
    /// Not carried out, and waiting does not help: no CA certificates, an unusable proxy.
    Hopeless(String),
    /// The program is going down.
    Stopped,
}

pub(crate) type SlackResult<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(code) => write!(f, "Slack refused: {}", explain(code)),
            Failure::Limited(after) => write!(f, "rate limited for {} s", after.as_secs()),
            Failure::Unknown(why) => write!(f, "{why}; it may have been done anyway"),
            Failure::Failed(why) | Failure::Hopeless(why) => f.write_str(why),
            Failure::Stopped => f.write_str("stopped"),
        }
    }
}

impl Failure {
    /// Would the same call be refused again?
    pub(crate) fn stays(&self) -> bool {
        matches!(self, Failure::Refused(code) if !TRANSIENT.contains(&code.as_str()))
    }

    /// Is the channel closed to mom: nothing can be posted until mom is invited or it is reopened?
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Failure::Refused(code) if CLOSED.contains(&code.as_str()))
    }

    /// Would Slack perhaps accept the same text without blocks?
    pub(crate) fn blames_blocks(&self) -> bool {
        let is_other = |code: &str| REFUSED_ANYWAY.iter().any(|start| code.starts_with(start));
        matches!(self, Failure::Refused(code) if self.stays() && !is_other(code))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Stopped => Error::Stopped,
            Failure::Limited(after) => Error::Retry {
                after: Some(after),
                why: failure.to_string(),
                fault: None,
            },
            Failure::Refused(_) | Failure::Hopeless(_) => Error::Failed(failure.to_string()),
            Failure::Unknown(_) | Failure::Failed(_) => Error::retry(failure.to_string()),
        }
    }
}

/// An error code of Slack, with the fix if one is known.
fn explain(code: &str) -> String {
    if let Some(scope) = code.strip_prefix("missing_scope:") {
        if scope.starts_with("connections:") {
            return format!(
                "missing_scope (make a new app-level token with {scope}: app settings, Basic \
                 Information > App-Level Tokens)"
            );
        }
        return format!(
            "missing_scope (add {scope} in the app's settings, then reinstall the app)"
        );
    }
    let hint = match code {
        "not_in_channel" => "invite mom there: /invite @mom",
        "channel_not_found" => "no such conversation, or a private one that mom is not in",
        "is_archived" | "is_inactive" => "the channel is archived",
        "invalid_auth" | "not_authed" | "token_revoked" | "token_expired" => {
            "take the token again from the app's pages at api.slack.com/apps"
        }
        "account_inactive" => "the app was removed from the workspace; install it again",
        "not_allowed_token_type" => {
            "xapp- goes into MOM_SLACK_APP_TOKEN, xoxb- into MOM_SLACK_BOT_TOKEN"
        }
        "file_upload_size_restricted" => "too large for this workspace",
        "storage_limit_reached" => "the workspace's file storage is full",
        "messages_tab_disabled" => "switch the Messages tab on: App Home in the app's settings",
        code => return code.to_owned(),
    };
    format!("{code} ({hint})")
}

/// Codes of temporary failures.
#[rustfmt::skip]
const TRANSIENT: &[&str] = &[
    "internal_error", "fatal_error", "service_unavailable", "request_timeout",
    "team_added_to_org",
];
/// Codes for a channel that mom is not in, or that is archived.
#[rustfmt::skip]
const CLOSED: &[&str] = &[
    "channel_not_found", "not_in_channel", "is_archived", "is_inactive",
];
/// Beginnings of codes that concern the message, its channel or mom's rights. Any other refusal of
/// a message with blocks is blamed on the blocks.
#[rustfmt::skip]
const REFUSED_ANYWAY: &[&str] = &[
    "account_", "cannot_reply", "cant_", "channel_", "edit_window", "ekm_", "invalid_auth", "is_", "message_",
    "missing_scope", "no_permission", "not_", "org_login", "restricted_action", "team_", "thread_", "token_",
];
/// Codes of apps.connections.open and auth.test after which waiting does not help.
#[rustfmt::skip]
const FATAL: &[&str] = &[
    "not_authed", "invalid_auth", "account_inactive", "user_removed_from_team",
    "team_disabled", "token_revoked", "token_expired", "not_allowed_token_type",
    "forbidden_team", "insecure_request", "org_login_required", "ekm_access_denied",
    "team_access_not_granted", "accesslimited", "no_permission",
];

/// Fatal codes end the program, everything else is tried again by the caller.
pub(super) fn fatal(failure: Failure, method: &str) -> Error {
    let code = match &failure {
        Failure::Refused(code) => code,
        // Both methods can safely be called twice.
        Failure::Unknown(why) => return Error::retry(why.as_str()),
        _ => return failure.into(),
    };
    let scope = code.starts_with("missing_scope");
    if !scope && !FATAL.contains(&code.as_str()) {
        return Error::retry(format!("{method}: {failure}"));
    }
    let check = match method {
        "auth.test" => "MOM_SLACK_BOT_TOKEN (app settings: Install App)",
        _ => {
            "MOM_SLACK_APP_TOKEN (app settings: Basic Information > App-Level Tokens, Socket Mode)"
        }
    };
    Error::failed(format!("{method}: {failure}; check {check}"))
}

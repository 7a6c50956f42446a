//! What `mom --check` reports about Slack: tokens, who they belong to, granted scopes, Socket Mode,
//! and who may use mom.

use super::manifest;
use super::web::{Identity, Web};
use crate::base::error::Result;
use crate::base::finding::{Finding, Grade};
use crate::base::stop::Stop;
use crate::base::text;
use crate::config::{self, Config, Keys};
use crate::net::Net;

const NETWORK: &str = "look at the network: cable, DNS, firewall, HTTPS_PROXY";

/// Asks Slack, until the stop.
pub(crate) fn check(config: &Config, keys: &Keys, net: &Net, stop: &Stop) -> Vec<Finding> {
    let what = "Slack tokens";
    let (app, bot) = match config::slack_tokens(keys) {
        Ok(tokens) => tokens,
        Err(err) => return vec![Finding::failed(what, &err, "")],
    };
    let web = Web::new(&config.slack_api_url, app, bot, net, stop);
    let mut findings = vec![Finding::ok(what, "both are there, each in its place")];
    findings.extend(identity(web.auth_test()));
    findings.push(match web.apps_connections_open() {
        // The returned address expires if it is not used.
        Ok(_) => Finding::ok("Socket Mode", "on (asked for a socket, opened none)"),
        Err(err) => Finding::failed("Socket Mode", &err, NETWORK),
    });
    findings
}

fn identity(asked: Result<Identity>) -> Vec<Finding> {
    let Identity {
        user, team, scopes, ..
    } = match asked {
        Ok(identity) => identity,
        Err(err) => return vec![Finding::failed("Slack", &err, NETWORK)],
    };
    let mut missing = manifest::scopes();
    missing.retain(|scope| !scopes.contains(scope));
    let of_scopes = match missing.join(", ") {
        none if none.is_empty() => Finding::ok("scopes", "all that the manifest asks for"),
        _ if scopes.is_empty() => Finding::warn(
            "scopes",
            "Slack did not send them",
            "look at OAuth & Permissions in the app's settings",
        ),
        missing => Finding::fail(
            "scopes",
            format!("missing: {missing}"),
            "add them under OAuth & Permissions in the app's settings, then reinstall the app",
        ),
    };
    let who = format!("I am {user} in the workspace {team}");
    vec![Finding::ok("Slack", who), of_scopes]
}

/// The allow-lists.
pub(crate) fn check_access(config: &Config) -> Finding {
    let what = "who may ask";
    if let Some(odd) = super::odd_lists(config) {
        return Finding::of(what, Grade::Fail, &odd, "");
    }
    match &config.allow_users {
        Some(users) => Finding::ok(what, text::count(users.len(), "user") + " of the workspace"),
        None => Finding::warn(
            what,
            "everyone in the workspace",
            "--allow-users=U1,U2 names those who may; ids are in their Slack profiles",
        ),
    }
}

//! Who is who: users and channels, looked up when first seen and kept. Nothing is listed at
//! start; the list of all of them is a file, made when someone has spoken to mom that day.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::base::error::Result;
use crate::base::log;
use crate::base::text;
use crate::store::dir::Dir;

use super::is_user_id;
use super::web::{Failure, PAGE, Web};

/// Below the data directory: one user or channel a line, for grep.
pub(crate) const DIRECTORY_FILE: &str = "directory.tsv";
/// Entries kept of each kind; when there are more, the table starts anew.
const KEPT_MAX: usize = 5_000;
/// Of the directory file; a workspace of 50,000 people takes about 3 MB.
const DIRECTORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Characters of a name.
const NAME_CHARS_MAX: usize = 80;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct User {
    pub(crate) id: String,
    /// `lena`
    pub(crate) handle: String,
    /// `Lena Berg`
    pub(crate) display: String,
    /// A guest, or someone of another workspace: refused unless listed.
    pub(crate) outsider: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Channel {
    /// `ops`; `None` for a direct message.
    pub(crate) name: Option<String>,
}

pub(crate) struct Names {
    web: Arc<Web>,
    team_id: String,
    /// `None`: Slack does not know them.
    users: Mutex<HashMap<String, Option<User>>>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Names {
    pub(crate) fn new(web: Arc<Web>, team_id: String) -> Names {
        Names {
            web,
            team_id,
            users: Mutex::default(),
            channels: Mutex::default(),
        }
    }

    /// Only what is known already: never waits.
    pub(crate) fn known(&self, id: &str) -> Option<User> {
        self.users.lock().unwrap().get(id).cloned().flatten()
    }

    /// What a program calls itself in its messages: users.info knows only people.
    pub(crate) fn remember(&self, id: &str, name: &str) {
        // So that it does not pass for a person of that name.
        let name = format!("{} (app)", clean(name));
        let user = User {
            id: id.to_owned(),
            handle: name.clone(),
            display: name,
            outsider: true,
        };
        keep(&self.users, id, &Some(user));
    }

    /// Asks Slack when need be. `None` when Slack does not know or does not answer.
    pub(crate) fn user(&self, id: &str) -> Option<User> {
        if let Some(found) = self.users.lock().unwrap().get(id) {
            return found.clone();
        }
        // The log, where ids come from, is anyone's.
        if !is_user_id(id) {
            return None;
        }
        let user = match self.web.users_info(id) {
            Ok(told) => Some(self.parse(&told)?),
            Err(Failure::Refused(code)) if code.starts_with("user_not_") => None,
            Err(failure) => {
                log::debug!("", "users.info of {id}: {failure}");
                return None;
            }
        };
        keep(&self.users, id, &user);
        user
    }

    /// `Err` when Slack says that mom can't be there.
    pub(crate) fn channel(&self, id: &str) -> std::result::Result<Channel, Failure> {
        if let Some(channel) = self.channels.lock().unwrap().get(id) {
            return Ok(channel.clone());
        }
        let value = self.web.conversations_info(id)?;
        if value["is_member"] == false && value["is_im"] != true && value["is_mpim"] != true {
            return Err(Failure::Refused("not_in_channel".to_owned()));
        }
        if value["is_archived"] == true {
            return Err(Failure::Refused("is_archived".to_owned()));
        }
        let name = value["name"].as_str().filter(|_| value["is_im"] != true);
        let channel = Channel {
            name: name.map(clean),
        };
        keep(&self.channels, id, &channel);
        Ok(channel)
    }

    fn parse(&self, value: &Value) -> Option<User> {
        let id = value["id"].as_str()?;
        let handle = value["name"].as_str().map_or_else(|| id.to_owned(), clean);
        let real = [&value["real_name"], &value["profile"]["real_name"]];
        let real = real.into_iter().find_map(Value::as_str);
        let real = real.filter(|name| !name.is_empty());
        let mut flags = ["is_restricted", "is_ultra_restricted", "is_stranger"].iter();
        let team = value["team_id"].as_str().unwrap_or(&self.team_id);
        Some(User {
            id: id.to_owned(),
            display: real.map_or_else(|| handle.clone(), clean),
            handle,
            outsider: flags.any(|flag| value[flag] == true)
                || (!self.team_id.is_empty() && team != self.team_id),
        })
    }

    /// Writes the list of all users and channels.
    pub(crate) fn write_directory(&self, dir: &Dir) -> Result<()> {
        let mut lines = String::new();
        let web = &self.web;
        let args = [("limit", PAGE)];
        web.pages("users.list", &args, &mut |mut members| {
            members.retain(|member| member["deleted"] != true);
            let users = members.iter().filter_map(|member| self.parse(member));
            lines.extend(users.map(|user| {
                let User {
                    id,
                    handle,
                    display,
                    ..
                } = user;
                format!("{id}\t@{handle}\t{display}\n")
            }));
            Ok(lines.len() < DIRECTORY_BYTES_MAX)
        })?;
        let args = [
            ("limit", PAGE),
            ("exclude_archived", "true"),
            ("types", "public_channel,private_channel"),
        ];
        web.pages("conversations.list", &args, &mut |channels| {
            lines.extend(channels.iter().filter_map(|channel| {
                let (id, name) = (channel["id"].as_str()?, channel["name"].as_str()?);
                Some(format!("{id}\t#{}\n", clean(name)))
            }));
            Ok(lines.len() < DIRECTORY_BYTES_MAX)
        })?;
        dir.replace(DIRECTORY_FILE, lines.as_bytes())
    }
}

/// Someone else chose it: one line without tabs, not too long, and not the end of a `[name]`.
fn clean(name: &str) -> String {
    let name = name.replace('[', "(").replace(']', ")");
    text::one_line(&name, NAME_CHARS_MAX)
}

fn keep<T: Clone>(table: &Mutex<HashMap<String, T>>, id: &str, value: &T) {
    let mut table = table.lock().unwrap();
    if table.len() >= KEPT_MAX {
        table.clear();
    }
    table.insert(id.to_owned(), value.clone());
}

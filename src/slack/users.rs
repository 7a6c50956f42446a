//! Names of users and channels, and what users are to the workspace: looked up on first use, kept
//! for an hour. bot/access.rs decides with this who may use mom.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::base::bounded::Bounded;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Stop;
use crate::base::text;
use crate::base::time;
use crate::store::dir::Dir;

use super::inbound::Me;
use super::is_user_id;
use super::web::{Failure, PAGE, SlackResult, Web};

/// File in the data directory: one user or channel per line, for grep.
pub(crate) const DIRECTORY_FILE: &str = "directory.tsv";
/// The file is written again after a day.
const DIRECTORY_AGE_MS: i64 = 24 * 3_600_000;
/// Pause between pages of the list, which is not urgent: Slack allows 20 a minute.
const PAGE_PAUSE: Duration = Duration::from_secs(3);
/// Entries kept of each kind.
const KEPT_MAX: usize = 5_000;
/// How long a looked-up user or channel is used.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// How long a refusal is remembered: a missing scope may be granted meanwhile.
const REFUSAL_KEPT_FOR: Duration = Duration::from_secs(300);
/// Users that wait to be looked up.
const WANTED_MAX: usize = 1_000;
/// Size limit of the directory file; a workspace of 50,000 people needs about 3 MB.
const DIRECTORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Characters of a name.
const NAME_CHARS_MAX: usize = 80;

/// What a user is to the workspace that mom is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Of this workspace, or of another one of the same Enterprise Grid organisation.
    Member,
    /// Of this organisation, but limited to some of its channels.
    Guest,
    /// Of another organisation, or deactivated.
    Stranger,
    /// A bot user or a workflow: never answered.
    Program,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct User {
    pub(crate) id: String,
    /// `lena`
    pub(crate) handle: String,
    /// `Lena Berg`
    pub(crate) display: String,
    pub(crate) standing: Standing,
}

pub(crate) struct Names {
    web: Arc<Web>,
    me: Me,
    /// By user id. `Err`: Slack refused the look-up, with the reason.
    users: Table<std::result::Result<User, String>>,
    /// Their names; `None`: a direct message.
    channels: Table<Option<String>>,
    /// Users to be looked up for the lines of the log.
    wanted: Mutex<VecDeque<String>>,
    /// Notified when a user was looked up.
    looked_up: Condvar,
    directory_wanted: SyncSender<()>,
    directory_wakes: Mutex<Receiver<()>>,
}

/// What was looked up, by id, and when.
type Table<T> = Mutex<Bounded<String, (Instant, T)>>;

impl Names {
    pub(crate) fn new(web: Arc<Web>, me: Me) -> Names {
        let (directory_wanted, wakes) = sync_channel(1);
        Names {
            web,
            me,
            users: Mutex::new(Bounded::new(KEPT_MAX)),
            channels: Mutex::new(Bounded::new(KEPT_MAX)),
            wanted: Mutex::default(),
            looked_up: Condvar::new(),
            directory_wanted,
            directory_wakes: Mutex::new(wakes),
        }
    }

    /// A user as last seen, however long ago: for names, not for rights. Never waits.
    pub(crate) fn last_known(&self, id: &str) -> Option<User> {
        let users = self.users.lock().unwrap();
        users.get(id)?.1.clone().ok()
    }

    /// Stores the name that a program uses in its messages: users.info knows only people.
    pub(crate) fn remember(&self, id: &str, name: &str) {
        if name.is_empty() {
            return;
        }
        // The suffix keeps it from looking like a person of that name.
        let name = format!("{} (app)", clean(name));
        let user = User {
            id: id.to_owned(),
            handle: name.clone(),
            display: name,
            standing: Standing::Program,
        };
        keep(&self.users, id, Ok(user));
    }

    /// The user for display: asks Slack if needed, which may wait.
    pub(crate) fn user(&self, id: &str) -> Option<User> {
        self.look_up(id).ok();
        self.last_known(id)
    }

    /// Asks Slack unless `recent` has the user; afterwards it has. May wait for Slack.
    ///
    /// # Errors
    /// Slack can't be asked now, with the reason.
    pub(crate) fn look_up(&self, id: &str) -> std::result::Result<(), String> {
        // Ids come from the log, which others can write.
        if self.recent(id).is_some() || !is_user_id(id) {
            return Ok(());
        }
        let user = match self.web.users_info(id) {
            Ok(value) => {
                let user = self.parse(&value);
                user.ok_or_else(|| "users.info: no user in the answer".to_owned())
            }
            Err(failure) if failure.stays() => Err(failure.to_string()),
            Err(failure) => return Err(failure.to_string()),
        };
        keep(&self.users, id, user);
        self.looked_up.notify_all();
        Ok(())
    }

    /// The result of a look-up within the last hour; `Err`: Slack refused it, with the reason.
    /// Never waits.
    pub(crate) fn recent(&self, id: &str) -> Option<std::result::Result<User, String>> {
        let users = self.users.lock().unwrap();
        let (at, known) = users.get(id)?;
        let kept_for = known.as_ref().map_or(REFUSAL_KEPT_FOR, |_| KEPT_FOR);
        (at.elapsed() < kept_for).then(|| known.clone())
    }

    /// Whether this is a person who was never looked up. Never waits.
    pub(crate) fn is_new(&self, id: &str) -> bool {
        is_user_id(id) && self.users.lock().unwrap().get(id).is_none()
    }

    /// Queues users for the thread that calls `next_wanted`; false: all of them were queued before.
    pub(crate) fn want(&self, ids: &[&str]) -> bool {
        let mut wanted = self.wanted.lock().unwrap();
        let before = wanted.len();
        for id in ids {
            if wanted.len() < WANTED_MAX && !wanted.iter().any(|other| other == id) {
                wanted.push_back((*id).to_owned());
            }
        }
        wanted.len() > before
    }

    pub(crate) fn next_wanted(&self) -> Option<String> {
        self.wanted.lock().unwrap().pop_front()
    }

    /// Waits until all of these were looked up, but no longer than `until`.
    pub(crate) fn wait_known(&self, ids: &[&str], until: Instant) {
        let mut users = self.users.lock().unwrap();
        while ids.iter().any(|id| users.get(*id).is_none()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            users = self.looked_up.wait_timeout(users, left).unwrap().0;
        }
    }

    /// Stores a changed user if it was looked up before; ignores all others.
    pub(crate) fn user_changed(&self, value: &Value) {
        let Some(user) = self.parse(value) else {
            return;
        };
        let mut users = self.users.lock().unwrap();
        if users.get(&user.id).is_some() {
            users.insert(user.id.clone(), (Instant::now(), Ok(user)));
        }
    }

    /// It is looked up again when it is needed next.
    pub(crate) fn forget_channel(&self, id: &str) {
        self.channels.lock().unwrap().remove(id);
    }

    /// A channel's name, `ops`; `None` for a direct message. Also `Err` if the answer says that mom
    /// is not in the channel or that it is archived.
    pub(crate) fn channel(&self, id: &str) -> SlackResult<Option<String>> {
        if let Some((at, name)) = self.channels.lock().unwrap().get(id) {
            if at.elapsed() < KEPT_FOR {
                return Ok(name.clone());
            }
        }
        let value = self.web.conversations_info(id)?;
        if value["is_member"] == false && value["is_im"] != true && value["is_mpim"] != true {
            return Err(Failure::Refused("not_in_channel".to_owned()));
        }
        if value["is_archived"] == true {
            return Err(Failure::Refused("is_archived".to_owned()));
        }
        let name = value["name"].as_str().filter(|_| value["is_im"] != true);
        let name = name.map(clean);
        keep(&self.channels, id, name.clone());
        Ok(name)
    }

    fn parse(&self, value: &Value) -> Option<User> {
        let id = value["id"].as_str()?;
        let handle = value["name"].as_str().map_or_else(|| id.to_owned(), clean);
        let real = [&value["real_name"], &value["profile"]["real_name"]];
        let real = real.into_iter().find_map(Value::as_str);
        let real = real.filter(|name| !name.is_empty());
        Some(User {
            id: id.to_owned(),
            display: real.map_or_else(|| handle.clone(), clean),
            handle,
            standing: standing(value, &self.me),
        })
    }

    /// Wakes `keep_directory`. Never waits: one pending wake-up is enough.
    pub(crate) fn want_directory(&self) {
        self.directory_wanted.try_send(()).ok();
    }

    /// The body of a thread: when woken, writes the list of all users and channels if it is old.
    /// Slowly, in the background: a large workspace takes minutes.
    pub(crate) fn keep_directory(&self, dir: &Dir, stop: &Stop) {
        for () in &*self.directory_wakes.lock().unwrap() {
            if stop.is_set() {
                return;
            }
            let stamp = dir.stamp(DIRECTORY_FILE).unwrap_or(None);
            let age_ms = stamp.map(|stamp| time::now_ms() - stamp.modified_ms());
            if age_ms.is_some_and(|age_ms| age_ms <= DIRECTORY_AGE_MS) {
                continue;
            }
            match self.write_directory(dir, stop) {
                Ok(()) | Err(Error::Stopped) => {}
                Err(err) => log::warning!("", "cannot list users and channels: {err}"),
            }
        }
    }

    fn write_directory(&self, dir: &Dir, stop: &Stop) -> Result<()> {
        let of_channels = [
            ("limit", PAGE),
            ("exclude_archived", "true"),
            ("types", "public_channel,private_channel"),
        ];
        let mut lines = String::new();
        let mut pages = 0;
        for (method, args) in [
            ("users.list", &of_channels[..1]),
            ("conversations.list", &of_channels),
        ] {
            for page in self.web.pages(method, args) {
                let items = page?;
                lines.extend(items.iter().filter_map(|item| self.directory_line(item)));
                pages += 1;
                if lines.len() >= DIRECTORY_BYTES_MAX {
                    break;
                }
                if pages > 2 {
                    stop.wait(PAGE_PAUSE)?;
                }
            }
        }
        dir.replace(DIRECTORY_FILE, lines.as_bytes())?;
        let count = lines.lines().count();
        log::info!("", "{DIRECTORY_FILE} lists {count} users and channels");
        Ok(())
    }

    /// The line of a user or a channel.
    fn directory_line(&self, item: &Value) -> Option<String> {
        let (id, name) = (item["id"].as_str()?, item["name"].as_str()?);
        if !is_user_id(id) {
            return Some(format!("{id}\t#{}\n", clean(name)));
        }
        let user = self.parse(item).filter(|_| item["deleted"] != true)?;
        Some(format!("{id}\t@{}\t{}\n", user.handle, user.display))
    }
}

/// The standing in a user object of users.info, users.list or user_change.
fn standing(user: &Value, me: &Me) -> Standing {
    let has = |flag: &str| user[flag] == true;
    let team = user["team_id"].as_str().unwrap_or_default();
    let organisation = &user["enterprise_user"]["enterprise_id"];
    let organisation = organisation.as_str().or(user["enterprise_id"].as_str());
    if has("is_bot") || has("is_workflow_bot") || has("is_connector_bot") {
        Standing::Program
    } else if has("deleted") {
        Standing::Stranger
    } else if has("is_restricted") || has("is_ultra_restricted") {
        Standing::Guest
    } else if me.is_home(organisation.unwrap_or_default()) {
        Standing::Member
    } else if has("is_stranger") || !(team.is_empty() || me.is_home(team)) {
        Standing::Stranger
    } else {
        Standing::Member
    }
}

/// Cleans a name that others chose: one short line without tabs and without the end of `[name]`.
fn clean(name: &str) -> String {
    let name = name.replace('[', "(").replace(']', ")");
    text::one_line(&name, NAME_CHARS_MAX)
}

fn keep<T>(table: &Table<T>, id: &str, value: T) {
    let value = (Instant::now(), value);
    table.lock().unwrap().insert(id.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;
    use crate::net::testing::{net, read_request, serve};
    use serde_json::json;
    use std::io::Write as _;

    #[test]
    fn standing_of_a_user() {
        use Standing::{Guest, Member, Program, Stranger};
        let grid = |id: &str| json!({"team_id": "T2", "enterprise_user": {"enterprise_id": id}});
        let home = |flag: &str| json!({"team_id": "T1", flag: true});
        for (enterprise_id, user, want) in [
            ("", home("is_admin"), Member),
            ("", json!({}), Member),
            ("", home("deleted"), Stranger),
            ("", home("is_restricted"), Guest),
            ("", home("is_ultra_restricted"), Guest),
            ("", home("is_stranger"), Stranger),
            ("", home("is_bot"), Program),
            ("", json!({"team_id": "T2"}), Stranger),
            ("", grid("E1"), Stranger),
            ("E1", grid("E1"), Member),
            ("E1", grid("E2"), Stranger),
            ("E1", json!({"team_id": "E1"}), Member),
            ("E1", json!({"team_id": "T2"}), Stranger),
        ] {
            let me = Me {
                user_id: "U0MOM".into(),
                team_id: "T1".into(),
                enterprise_id: enterprise_id.into(),
            };
            assert_eq!(standing(&user, &me), want, "{enterprise_id} {user}");
        }
    }

    #[test]
    fn what_was_looked_up_is_believed_for_an_hour() {
        let mut count = 0;
        let address = serve(move |mut tcp| {
            read_request(&mut tcp);
            count += 1;
            let body = json!({"ok": count != 5, "error": "user_not_found",
                "user": {"id": "U7", "name": format!("lena{count}"), "is_restricted": count > 1},
                "channel": {"id": "C1", "name": format!("ops{count}")}});
            let body = body.to_string();
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
            let answer = format!("{head} {}\r\n\r\n{body}", body.len());
            tcp.write_all(answer.as_bytes()).unwrap();
        });
        let token = || Secret::new("x");
        let url = format!("http://{address}");
        let web = Web::new(&url, token(), token(), &net(None), &Stop::new());
        let names = Names::new(Arc::new(web), Me::default());
        let look = || {
            names.look_up("U7").unwrap();
            let user = names.recent("U7").expect("it was looked up");
            let user = user.map(|user| format!("{} {:?}", user.handle, user.standing));
            let user = user.unwrap_or_else(|why| why);
            (user, names.channel("C1").unwrap().unwrap())
        };
        let grow_old = |by: Duration| {
            let then = Instant::now().checked_sub(by).unwrap();
            let (mut users, mut channels) =
                (names.users.lock().unwrap(), names.channels.lock().unwrap());
            let user = users.get("U7").unwrap().1.clone();
            users.insert("U7".to_owned(), (then, user));
            let channel = channels.get("C1").unwrap().1.clone();
            channels.insert("C1".to_owned(), (then, channel));
        };
        let minute = Duration::from_secs(60);
        let want = |user: &str, channel: &str| (user.to_owned(), channel.to_owned());
        assert_eq!(look(), want("lena1 Member", "ops2"));
        grow_old(KEPT_FOR - minute);
        assert_eq!(look(), want("lena1 Member", "ops2"));
        grow_old(KEPT_FOR);
        assert_eq!(names.recent("U7"), None);
        assert_eq!(names.last_known("U7").unwrap().handle, "lena1");
        assert_eq!(look(), want("lena3 Guest", "ops4"));
        grow_old(KEPT_FOR);
        let refused = "Slack refused: user_not_found";
        assert_eq!(look(), want(refused, "ops6"));
        grow_old(REFUSAL_KEPT_FOR - minute);
        assert_eq!(look(), want(refused, "ops6"));
        grow_old(REFUSAL_KEPT_FOR);
        assert_eq!(look(), want("lena7 Guest", "ops6"));
    }
}

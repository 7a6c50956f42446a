mod cron;
mod error;
mod json;
mod llm;
mod log;
mod prompt;
mod queue;
mod run;
mod sandbox;
mod secret;
mod settings;
mod skills;
mod stop;
mod text;
mod time;
mod tools;
fn main() {}

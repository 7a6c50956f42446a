mod error;
mod json;
mod llm;
mod log;
mod run;
mod secret;
mod stop;
mod time;
fn main() {}

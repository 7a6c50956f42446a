mod error;
mod json;
mod llm;
mod log;
mod queue;
mod run;
mod sandbox;
mod secret;
mod stop;
mod time;
mod tools;
fn main() {}

mod error;
mod json;
mod llm;
mod log;
mod run;
mod stop;
mod time;
fn main() {}

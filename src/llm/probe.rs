//! What servers say about their models: the window, and whether the model accepts images. Each
//! server says it in another place; mom works without it.

use std::time::Duration;

use serde_json::Value;

use super::Model;
use super::endpoint::Endpoint;
use crate::base::error::{Error, Result};
use crate::base::json::Obj;
use crate::base::log;
use crate::base::stop::Stop;
use crate::base::text;

/// Time limit for an answer that a person waits for.
const CHECK_MAX: Duration = Duration::from_secs(10);
/// Tokens. The system prompt and a few tool results fill a smaller window.
const SMALL_WINDOW: u64 = 8192;

/// `model` with the server's data added; `None` when the server gives none.
pub(super) fn probe(endpoint: &Endpoint, model: &Model, stop: &Stop) -> Option<Model> {
    let (id, service) = (&model.id, endpoint.service.name);
    let found = match service {
        "ollama" => ollama(endpoint, id, stop),
        "llamacpp" => llamacpp(endpoint, stop).or_else(|| listed(endpoint, model, stop)),
        _ => listed(endpoint, model, stop),
    };
    let (window, sees) = found?;
    if window <= SMALL_WINDOW {
        let setting = endpoint.service.local.unwrap_or("use another model");
        log::warning!("", "{id} has a window of only {window} tokens: {setting}");
    }
    let mut model = Model {
        takes_images: sees.unwrap_or(model.takes_images),
        ..model.clone()
    };
    set_window(&mut model, window);
    Some(model)
}

pub(super) fn set_window(model: &mut Model, window: u64) {
    model.context_window = window;
    // Some servers count the output limit as part of the window, even if less is written.
    let quarter = u32::try_from(window / 4).unwrap_or(u32::MAX);
    model.output_tokens_max = model.output_tokens_max.min(quarter);
}

/// Asks the server, at no cost, whether it takes the key and has the model.
pub(super) fn check(endpoint: &Endpoint, model: &Model, stop: &Stop) -> Result<()> {
    let (service, id) = (endpoint.service, model.id.as_str());
    let url = match service.name {
        "anthropic" => format!("{}/v1/models/{id}", endpoint.base_url),
        _ => format!("{}/models", endpoint.base_url),
    };
    let answered = endpoint.fetch(&url, None, CHECK_MAX, stop);
    let answer = answered.map_err(|fault| fault.into_error(endpoint, model))?;
    if let Some(fix) = fix_for_missing(service.name, &answer, id) {
        let text = format!("{} has no model {id}; {fix}", endpoint.base_url);
        return Err(Error::failed(text));
    }
    Ok(())
}

/// What to do when the model is not in the service's list; `None` when it is, or without a list.
fn fix_for_missing(service: &str, list: &Value, id: &str) -> Option<String> {
    // Ollama's default tag, OpenRouter's variants of one model.
    let listed_as = match (service, id.split_once(':')) {
        ("ollama", None) => format!("{id}:latest"),
        ("openrouter", Some((name, _))) => name.to_owned(),
        _ => id.to_owned(),
    };
    // A llama-server that has one model accepts any name for it.
    let takes_any = |models: &Vec<Value>| service == "llamacpp" && models.len() == 1;
    match read_list(list, id).or_else(|_| read_list(list, &listed_as)) {
        _ if service == "anthropic" || list["data"].as_array().is_some_and(takes_any) => None,
        Err(Some(near)) => Some(format!("did you mean {near}?")),
        Err(None) if list["data"].is_array() => Some(match service {
            "ollama" => format!("ollama pull {id}"),
            _ => "look for its name in what it lists at /models".to_owned(),
        }),
        _ => None,
    }
}

/// The window, and whether the model sees images.
type Found = Option<(u64, Option<bool>)>;

fn ollama(endpoint: &Endpoint, id: &str, stop: &Stop) -> Found {
    let root = endpoint.base_url.trim_end_matches("/v1");
    let body = Obj::new().str("model", id).end();
    let show = endpoint.ask(&format!("{root}/api/show"), Some(&body), stop)?;
    let ps = endpoint.ask(&format!("{root}/api/ps"), None, stop)?;
    read_ollama(&show, &ps, id)
}

/// The window of the model as it is loaded, else the one its Modelfile sets. The model's own
/// maximum does not count: the server's default may still be 4,096.
fn read_ollama(show: &Value, ps: &Value, id: &str) -> Found {
    let is_ours = |model: &&Value| {
        let name = model["name"].as_str().unwrap_or_default();
        name == id || name.strip_suffix(":latest") == Some(id)
    };
    let mut models = ps["models"].as_array().into_iter().flatten();
    let loaded = models
        .find(is_ours)
        .and_then(|model| model["context_length"].as_u64());
    let set = || {
        let mut lines = show["parameters"].as_str()?.lines();
        let value = lines.find_map(|line| line.strip_prefix("num_ctx"))?;
        value.trim().parse().ok()
    };
    let can = show["capabilities"].as_array();
    Some((
        loaded.or_else(set)?,
        can.map(|list| list.iter().any(|word| word == "vision")),
    ))
}

fn llamacpp(endpoint: &Endpoint, stop: &Stop) -> Found {
    let root = endpoint.base_url.trim_end_matches("/v1");
    let props = endpoint.ask(&format!("{root}/props"), None, stop)?;
    let window = props["default_generation_settings"]["n_ctx"].as_u64()?;
    Some((window, props["modalities"]["vision"].as_bool()))
}

/// Reads the list of models that most servers have.
fn listed(endpoint: &Endpoint, model: &Model, stop: &Stop) -> Found {
    let (url, id) = (&endpoint.base_url, &model.id);
    let path = match endpoint.service.name {
        "anthropic" => format!("{url}/v1/models?limit=1000"),
        // LM Studio's own list has more details.
        "lmstudio" => format!("{}/api/v0/models", url.trim_end_matches("/v1")),
        _ => format!("{url}/models"),
    };
    let list = endpoint.ask(&path, None, stop)?;
    read_list(&list, id).unwrap_or_else(|near| {
        log::warning!("", "{url} has no model {id}; did you mean {}?", near?);
        // This is an answer: asking again would give the same one.
        Some((model.context_window, None))
    })
}

/// The window, whatever its field is called; `Err` has the most similar name if `id` is missing.
fn read_list(list: &Value, id: &str) -> std::result::Result<Found, Option<String>> {
    #[rustfmt::skip]
    const WINDOW: &[&str] = &[
        "loaded_context_length", "max_model_len", "context_length", "context_window",
        "max_context_length", "max_input_tokens", "n_ctx",
    ];
    let list = list["data"].as_array().or(list.as_array()).ok_or(None)?;
    fn name(model: &Value) -> &str {
        let name = model["id"].as_str().unwrap_or_default();
        // Gemini.
        name.strip_prefix("models/").unwrap_or(name)
    }
    let Some(model) = list.iter().find(|model| name(model) == id) else {
        let names: Vec<&str> = list.iter().map(name).collect();
        return Err(text::nearest(id, &names).map(str::to_owned));
    };
    let sees = match &model["architecture"]["input_modalities"] {
        Value::Array(inputs) => Some(inputs.iter().any(|word| word == "image")),
        // LM Studio.
        _ => model["type"].as_str().map(|kind| kind == "vlm"),
    };
    // llama-server.
    let places = [model, &model["meta"]].into_iter();
    let mut fields = places.flat_map(|place| WINDOW.iter().map(move |field| &place[field]));
    let window = fields.find_map(Value::as_u64).filter(|window| *window > 0);
    Ok(window.map(|window| (window, sees)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    #[rustfmt::skip]
    fn ollama_tells_the_window_it_uses() {
        let show = |parameters: &str| {
            json!({"parameters": parameters, "capabilities": ["tools", "vision"],
                "model_info": {"llama.context_length": 131_072}})
        };
        let loaded =
            json!({"models": [{"name": "a"}, {"name": "m:latest", "context_length": 4096}]});
        for (parameters, ps, want) in [
            ("", &loaded, Some((4096, Some(true)))),
            ("temperature 1\nnum_ctx    8192\n", &json!({"models": []}), Some((8192, Some(true)))),
            ("", &json!(null), None),
        ] {
            assert_eq!(
                read_ollama(&show(parameters), ps, "m"),
                want,
                "{parameters}"
            );
        }
    }

    #[test]
    #[rustfmt::skip]
    fn lists() {
        for (list, want) in [
            (json!({"data": [{"id": "m", "max_model_len": 4096}]}), Ok(Some((4096, None)))),
            (json!([{"id": "m", "context_length": 1}]), Ok(Some((1, None)))),
            (json!({"data": [{"id": "m", "meta": {"n_ctx_train": 131_072, "n_ctx": 8192}}]}), Ok(Some((8192, None)))),
            (json!({"data": [{"id": "m", "type": "vlm", "max_context_length": 9, "loaded_context_length": 8}]}), Ok(Some((8, Some(true))))),
            (json!({"data": [{"id": "m", "context_length": 7, "architecture": {"input_modalities": ["text"]}}]}), Ok(Some((7, Some(false))))),
            (json!({"data": [{"id": "models/m"}]}), Ok(None)),
            (json!({"data": [{"id": "mm"}, {"id": "x"}]}), Err(Some("mm".to_owned()))),
            (json!("gone"), Err(None)),
        ] {
            assert_eq!(read_list(&list, "m"), want, "{list}");
        }
    }

    #[test]
    fn a_model_that_is_not_in_the_list() {
        let one = json!({"data": [{"id": "/models/tiny.gguf"}]});
        let two = json!({"data": [{"id": "llama3:latest"}, {"id": "qwen3"}]});
        for (service, list, id, want) in [
            // A llama-server that has one model accepts any name for it.
            ("llamacpp", &one, "m", None),
            ("llamacpp", &two, "qwen", Some("did you mean qwen3?")),
            (
                "vllm",
                &one,
                "m",
                Some("look for its name in what it lists at /models"),
            ),
            ("ollama", &two, "llama3", None),
            ("ollama", &two, "phi", Some("ollama pull phi")),
            ("openrouter", &two, "qwen3:free", None),
            ("custom", &json!("gone"), "m", None),
        ] {
            let fix = fix_for_missing(service, list, id);
            assert_eq!(fix.as_deref(), want, "{service} {id}");
        }
    }
}

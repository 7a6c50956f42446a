//! From `PROVIDER/ID` to a provider that can be asked: whose server it is, at which address,
//! with which key, and what is known of the model.

use super::call::Endpoint;
use super::models::{self, CacheLifetime, Service};
use super::offline::Offline;
use super::{Model, Provider, anthropic, openai, probe, responses};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret::Secret;
use crate::base::stop::Stop;
use crate::base::text;
use crate::config::MODEL_DEFAULT;
use crate::net::Net;

type FindKey<'a> = dyn Fn(&str, &[&str]) -> Result<Option<Secret>> + 'a;

/// Where addresses and keys are looked up.
pub(crate) struct Sources<'a> {
    /// What is no secret: base URLs, PI_CACHE_RETENTION.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// By the provider's name and the variables that may hold its key.
    pub(crate) key: &'a FindKey<'a>,
    pub(crate) net: &'a Net,
}

/// The provider for `spec` (`PROVIDER/ID`, a known id alone, or `offline`).
///
/// # Errors
/// `Usage`, with what to set or what it should have been called.
pub(crate) fn open(spec: &str, sources: &Sources<'_>) -> Result<Box<dyn Provider>> {
    if spec == "offline" {
        return Ok(Box::new(Offline::new()));
    }
    let (endpoint, model) = endpoint(spec, sources)?;
    if model.price.is_some() {
        return Ok(speak(endpoint, model, 0));
    }
    if let Some(near) = models::near(endpoint.service.name, &model.id) {
        log::warning!("", "{spec} is not a model I know; did you mean {near}?");
    }
    Ok(match probe::probe(&endpoint, &model, &Stop::new()) {
        Some(model) => speak(endpoint, model, 0),
        None => speak(endpoint, model, PROBES_MAX),
    })
}

/// The cheapest question that shows whether `open` would give a provider that answers.
///
/// # Errors
/// Those of `open`, and what the server has against key or model.
pub(crate) fn check(spec: &str, sources: &Sources<'_>, stop: &Stop) -> Result<Model> {
    if spec == "offline" {
        return Ok(Offline::new().model().clone());
    }
    let (endpoint, model) = endpoint(spec, sources)?;
    probe::check(&endpoint, &model, stop)?;
    Ok(model)
}

/// Where `spec` is served, and what is known of the model.
fn endpoint(spec: &str, sources: &Sources<'_>) -> Result<(Endpoint, Model)> {
    let (service, id) = parse_spec(spec)?;
    let key = (sources.key)(service.name, service.key_variables)?;
    if key.is_none() && !service.local {
        return Err(missing_key(service, sources));
    }
    let endpoint = Endpoint {
        net: sources.net.clone(),
        service,
        base_url: base_url(service, sources.variable)?,
        key,
        lifetime: match (sources.variable)("PI_CACHE_RETENTION").as_deref() {
            Some("long") => CacheLifetime::OneHour,
            _ => CacheLifetime::FiveMinutes,
        },
        no_images: false.into(),
    };
    let model = models::model(service, id, endpoint.lifetime);
    Ok((endpoint, model))
}

/// A server may still be starting, or load the model with the first turn.
const PROBES_MAX: u8 = 4;

/// The client for the model's wire format; `probes` is how often it may yet ask for the window.
pub(super) fn speak(endpoint: Endpoint, model: Model, probes: u8) -> Box<dyn Provider> {
    match model.api {
        "anthropic-messages" => Box::new(anthropic::Anthropic { endpoint, model }),
        "openai-responses" => Box::new(responses::Responses::new(endpoint, model)),
        _ => Box::new(openai::OpenAi::new(endpoint, model, probes)),
    }
}

fn parse_spec(spec: &str) -> Result<(&'static Service, &str)> {
    let (name, id) = spec.split_once('/').unwrap_or((spec, ""));
    let known = models::find_service(name);
    if let (Some(service), false) = (known, id.is_empty()) {
        return Ok((service, id));
    }
    if let Some(service) = models::provider_of(spec).and_then(models::find_service) {
        return Ok((service, spec));
    }
    let mut names = vec!["offline"];
    names.extend(models::SERVICES.iter().map(|service| service.name));
    let why = match (known, text::nearest(name, &names)) {
        (Some(_), _) => format!("names no model: write {name}/ID"),
        (None, Some("offline")) if name == "offline" => {
            String::from("there is just one: write --model=offline")
        }
        (None, Some(near)) => format!("there is no provider {name}; did you mean {near}?"),
        (None, None) => {
            let names = names.join(", ");
            format!("write PROVIDER/ID, like {MODEL_DEFAULT}; providers: {names}")
        }
    };
    Err(Error::Usage(format!("--model={spec}: {why}")))
}

fn missing_key(service: &Service, sources: &Sources<'_>) -> Error {
    let has_key = |other: &&Service| {
        !other.local && matches!((sources.key)(other.name, other.key_variables), Ok(Some(_)))
    };
    let others = models::SERVICES.iter().filter(has_key);
    let others: Vec<&str> = others.map(|other| other.name).collect();
    let instead = match others.join(", ") {
        none if none.is_empty() => {
            "without an account, try --model=offline or --model=ollama/ID".to_owned()
        }
        others => format!("a key is set for {others}: use --model=PROVIDER/ID"),
    };
    let (name, variables) = (service.name, service.key_variables.join(" or "));
    Error::Failed(format!("no key for {name}: set {variables}; {instead}"))
}

/// The address requests start with, without a slash at its end.
fn base_url(service: &Service, variable: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let name = service.base_url_variable;
    let ollama_host = || {
        let host = variable("OLLAMA_HOST").filter(|_| service.name == "ollama")?;
        Some(ollama_url(host.trim()))
    };
    let url = variable(name).or_else(ollama_host);
    let url = url.as_deref().unwrap_or(service.base_url);
    if url.is_empty() {
        let text = format!("--model=custom/ID needs {name}, like http://127.0.0.1:8000/v1");
        return Err(Error::Usage(text));
    }
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        let text = format!("{name} is {url:?}; it must start with http:// or https://");
        return Err(Error::Usage(text));
    }
    let url = url.trim_end_matches('/');
    Ok(match service.name {
        // The variable is documented without it, and set with it all the same.
        "anthropic" => url.strip_suffix("/v1").unwrap_or(url).to_owned(),
        _ => url.to_owned(),
    })
}

/// `host`, `host:port`, `http://host:port`, `:port`; an address to listen on becomes one to
/// connect to.
fn ollama_url(host: &str) -> String {
    let (scheme, rest) = host.split_once("://").unwrap_or(("http", host));
    let rest = rest.trim_end_matches('/');
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
        _ if scheme == "https" => (rest, "443"),
        _ => (rest, "11434"),
    };
    let name = match name {
        "" | "0.0.0.0" | "[::]" => "127.0.0.1",
        name => name,
    };
    format!("{scheme}://{name}:{port}/v1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn specs() {
        for (spec, settings, want) in [
            ("offline", &[][..], "offline/offline"),
            ("anthropic/x", &[("ANTHROPIC_API_KEY", "k"), ("ANTHROPIC_BASE_URL", "http://127.0.0.1:9/v1/")], "anthropic/x"),
            ("claude-haiku-5-5", &[("ANTHROPIC_API_KEY", "k")], "anthropic/claude-haiku-5-5"),
            ("anthropic/x", &[], "no key for anthropic: set ANTHROPIC_API_KEY; without an account, try --model=offline or --model=ollama/ID"),
            ("gemini/x", &[("OPENAI_API_KEY", "k")], "no key for gemini: set GEMINI_API_KEY or GOOGLE_API_KEY; a key is set for openai: use --model=PROVIDER/ID"),
            ("antropic/x", &[], "--model=antropic/x: there is no provider antropic; did you mean anthropic?"),
            ("ollama", &[], "--model=ollama: names no model: write ollama/ID"),
            ("offline/x", &[], "--model=offline/x: there is just one: write --model=offline"),
            ("custom/x", &[], "--model=custom/ID needs OPENAI_BASE_URL, like http://127.0.0.1:8000/v1"),
            ("ollama/x", &[("OLLAMA_BASE_URL", "localhost")], "OLLAMA_BASE_URL is \"localhost\"; it must start with http:// or https://"),
        ] {
            let variable = |name: &str| {
                let found = settings.iter().find(|(set, _)| *set == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let find_key = |_: &str, names: &[&str]| {
                Ok(names.iter().find_map(|name| variable(name)).map(|key| Secret::new(&key)))
            };
            let sources = Sources {
                variable: &variable,
                key: &find_key,
                net: &Net::from_env(),
            };
            let got = match open(spec, &sources) {
                Ok(provider) => format!("{}/{}", provider.model().provider, provider.model().id),
                Err(err) => err.to_string(),
            };
            assert_eq!(got, want, "{spec}");
        }
    }

    #[test]
    fn ollama_host() {
        for (host, want) in [
            ("0.0.0.0", "http://127.0.0.1:11434/v1"),
            ("pi.local", "http://pi.local:11434/v1"),
            ("pi.local:80", "http://pi.local:80/v1"),
            (":1", "http://127.0.0.1:1/v1"),
            ("http://0.0.0.0:1234/", "http://127.0.0.1:1234/v1"),
            ("https://x", "https://x:443/v1"),
            ("[::]:5", "http://127.0.0.1:5/v1"),
            ("[::1]", "http://[::1]:11434/v1"),
        ] {
            assert_eq!(ollama_url(host), want, "{host}");
        }
    }
}

//! The services that serve models, one row each with their quirks, and the way from
//! `PROVIDER/ID` to a client: which server, at which address, with which key.

use super::call::Client;
use super::endpoint::Endpoint;
use super::models::{self, CacheLifetime, Price};
use super::offline::Offline;
use super::{Model, Provider, probe};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret::Secret;
use crate::base::stop::Stop;
use crate::base::text;
use crate::config::MODEL_DEFAULT;
use crate::net::Net;

#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: &'static str,
    /// `Model::api` of its models.
    pub(super) api: &'static str,
    /// The variable `base_url_variable()` overrides it.
    pub(super) base_url: &'static str,
    /// The first that is set wins; empty for none.
    pub(super) key_variables: &'static [&'static str],
    /// Set for a server that the user runs: how to make its window larger. The key is optional
    /// then, the first byte may take minutes, and a longer prompt may be cut without an error.
    pub(super) local: Option<&'static str>,
    /// Name of the output limit in a chat completions request.
    pub(super) tokens_field: &'static str,
    /// Shortest and longest tool call id.
    pub(super) call_id_len: (usize, usize),
    /// Most pictures in a request. With more than 20 Anthropic accepts only small ones.
    pub(super) pictures_max: usize,
    pub(super) quirks: &'static [Quirk],
}

/// A way in which a service differs from the most portable chat completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quirk {
    /// Refuses `stream_options`; sends its usage anyway.
    NoStreamOptions,
    /// Refuses an assistant message whose content is null.
    NoNullContent,
    /// Refuses a user message right after a tool message.
    NoUserAfterTool,
    /// Wants `reasoning_content` back on every assistant message of a tool loop.
    EchoesReasoning,
    /// Refuses calls that carry no `thought_signature`.
    SignsCalls,
    /// Its models from Anthropic cache only where a breakpoint is set.
    CacheBreakpoints,
}

impl Service {
    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    pub(super) fn base_url_variable(&self) -> String {
        let name = if self.name == "custom" {
            "openai"
        } else {
            self.name
        };
        format!("{}_BASE_URL", name.to_ascii_uppercase())
    }
}

const MAX_TOKENS: &str = "max_tokens";
const MAX_COMPLETION_TOKENS: &str = "max_completion_tokens";

/// The other of the two names that the output limit has.
pub(super) fn other_tokens_field(field: &str) -> &'static str {
    if field == MAX_TOKENS {
        MAX_COMPLETION_TOKENS
    } else {
        MAX_TOKENS
    }
}

/// A row for the most portable service; the table's rows change what differs.
const fn service(
    name: &'static str,
    base_url: &'static str,
    key_variables: &'static [&'static str],
) -> Service {
    Service {
        name,
        api: "openai-completions",
        base_url,
        key_variables,
        local: None,
        tokens_field: MAX_TOKENS,
        call_id_len: (1, 40),
        pictures_max: 20,
        quirks: &[],
    }
}

const ANY_SERVER: &str = "start the server with a larger one (llama-server: -c 32768; vLLM: \
    --max-model-len; Ollama: OLLAMA_CONTEXT_LENGTH=32768)";

#[rustfmt::skip]
static SERVICES: &[Service] = &[
    Service { api: "anthropic-messages", call_id_len: (1, 64), ..service("anthropic", "https://api.anthropic.com", &["ANTHROPIC_API_KEY"]) },
    Service { tokens_field: MAX_COMPLETION_TOKENS, ..service("openai", "https://api.openai.com/v1", &["OPENAI_API_KEY"]) },
    Service { quirks: &[Quirk::CacheBreakpoints], ..service("openrouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"]) },
    Service { tokens_field: MAX_COMPLETION_TOKENS, pictures_max: 5, ..service("groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"]) },
    // Unknown fields are a 422; ids are exactly nine letters and digits.
    Service { call_id_len: (9, 9), pictures_max: 8, quirks: &[Quirk::NoStreamOptions, Quirk::NoNullContent, Quirk::NoUserAfterTool],
        ..service("mistral", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"]) },
    Service { quirks: &[Quirk::SignsCalls], ..service("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", &["GEMINI_API_KEY", "GOOGLE_API_KEY"]) },
    Service { quirks: &[Quirk::EchoesReasoning], ..service("deepseek", "https://api.deepseek.com", &["DEEPSEEK_API_KEY"]) },
    Service { tokens_field: MAX_COMPLETION_TOKENS, ..service("xai", "https://api.x.ai/v1", &["XAI_API_KEY"]) },
    Service { tokens_field: MAX_COMPLETION_TOKENS, ..service("cerebras", "https://api.cerebras.ai/v1", &["CEREBRAS_API_KEY"]) },
    service("together", "https://api.together.xyz/v1", &["TOGETHER_API_KEY"]),
    service("moonshot", "https://api.moonshot.ai/v1", &["MOONSHOT_API_KEY"]),
    service("zai", "https://api.z.ai/api/paas/v4", &["ZAI_API_KEY"]),
    Service { local: Some("start Ollama with OLLAMA_CONTEXT_LENGTH=32768"), ..service("ollama", "http://127.0.0.1:11434/v1", &[]) },
    Service { local: Some("start llama-server with -c 32768"), ..service("llamacpp", "http://127.0.0.1:8080/v1", &["LLAMA_API_KEY"]) },
    Service { local: Some("start vLLM with a larger --max-model-len"), ..service("vllm", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"]) },
    Service { local: Some("load the model in LM Studio with a larger context length"), ..service("lmstudio", "http://127.0.0.1:1234/v1", &[]) },
    Service { local: Some(ANY_SERVER), ..service("custom", "", &["OPENAI_API_KEY"]) },
];

pub(super) fn find(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}

type FindKey<'a> = dyn Fn(&str, &[&str]) -> Result<Option<Secret>> + 'a;

/// Where addresses, keys and the price are looked up.
pub(crate) struct Sources<'a> {
    /// What is no secret: base URLs, PI_CACHE_RETENTION.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// Finds a key by the provider's name and the variables that may hold it.
    pub(crate) key: &'a FindKey<'a>,
    /// `--price` as typed: it replaces the price in the table of models.
    pub(crate) price: Option<&'a str>,
    pub(crate) net: &'a Net,
}

/// The provider for `spec` (`PROVIDER/ID`, a known id alone, or `offline`).
///
/// # Errors
/// `Usage`, which says what to set or which name may have been meant.
pub(crate) fn open(spec: &str, sources: &Sources<'_>) -> Result<Box<dyn Provider>> {
    if spec == "offline" {
        return Ok(Box::new(Offline::new()));
    }
    let (endpoint, model) = endpoint(spec, sources)?;
    if models::is_known(&model) {
        return Ok(Box::new(Client::new(endpoint, model, 0)));
    }
    if let Some(near) = models::near(endpoint.service.name, &model.id) {
        log::warning!("", "{spec} is not a model I know; did you mean {near}?");
    }
    let client = Client::new(endpoint, model, PROBES_MAX);
    client.probe(&Stop::new());
    Ok(Box::new(client))
}

/// Asks the cheapest question that shows whether the provider from `open` would answer.
///
/// # Errors
/// Those of `open`, and the server's refusal of the key or the model.
pub(crate) fn check(spec: &str, sources: &Sources<'_>, stop: &Stop) -> Result<Model> {
    if spec == "offline" {
        return Ok(Model::clone(&Offline::new().model()));
    }
    let (endpoint, model) = endpoint(spec, sources)?;
    probe::check(&endpoint, &model, stop)?;
    Ok(model)
}

/// Where `spec` is served, and what is known of the model.
fn endpoint(spec: &str, sources: &Sources<'_>) -> Result<(Endpoint, Model)> {
    let (service, id) = parse_spec(spec)?;
    let price = sources.price.map(Price::parse).transpose()?;
    let key = (sources.key)(service.name, service.key_variables)?;
    if key.is_none() && service.local.is_none() {
        return Err(missing_key(service, sources));
    }
    let lifetime = match (sources.variable)("PI_CACHE_RETENTION").as_deref() {
        Some("long") => CacheLifetime::OneHour,
        _ => CacheLifetime::FiveMinutes,
    };
    let endpoint = Endpoint {
        net: sources.net.clone(),
        service,
        base_url: base_url(service, sources.variable)?,
        key,
        lifetime,
    };
    let mut model = models::model(service.name, service.api, id, lifetime);
    model.price = price.or(model.price);
    Ok((endpoint, model))
}

/// How many times a client may ask for the window: a server may still be starting, or may load
/// the model only with the first turn.
const PROBES_MAX: u8 = 5;

fn parse_spec(spec: &str) -> Result<(&'static Service, &str)> {
    let (name, id) = spec.split_once('/').unwrap_or((spec, ""));
    let known = find(name);
    if let (Some(service), false) = (known, id.is_empty()) {
        return Ok((service, id));
    }
    if let Some(service) = models::provider_of(spec).and_then(find) {
        return Ok((service, spec));
    }
    let mut names = vec!["offline"];
    names.extend(SERVICES.iter().map(|service| service.name));
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
        let key = (sources.key)(other.name, other.key_variables);
        other.local.is_none() && matches!(key, Ok(Some(_)))
    };
    let others = SERVICES.iter().filter(has_key);
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
    let name = service.base_url_variable();
    let ollama_host = || {
        let host = variable("OLLAMA_HOST").filter(|_| service.name == "ollama")?;
        Some(ollama_url(host.trim()))
    };
    let url = variable(&name).or_else(ollama_host);
    let url = url.as_deref().unwrap_or(service.base_url).trim();
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
        // The variable is documented without `/v1`, but people set it with `/v1` too.
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
                price: None,
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

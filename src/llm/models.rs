//! What is known of providers and models: tables, and the look-ups over them. Figures of
//! November 2026 from the vendors' price pages and two public price files that agree.

use super::{Cost, Model, Price, Usage};
use crate::base::json;
use crate::base::text;

/// Whoever serves models: one row each.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// `Model::api` of its models.
    pub(crate) api: &'static str,
    pub(crate) base_url: &'static str,
    /// Replaces `base_url`.
    pub(crate) base_url_variable: &'static str,
    /// The first that is set wins; empty for none.
    pub(crate) key_variables: &'static [&'static str],
    /// Runs on the user's own machine: the key is optional, the first byte may take
    /// minutes, the window is asked for, and a longer prompt may be cut in silence.
    pub(crate) local: bool,
    /// Name of the output limit in a chat completions request.
    pub(crate) tokens_field: &'static str,
    /// Knows `stream_options`; those without send their usage anyway.
    pub(crate) stream_options: bool,
    /// Shortest and longest tool call id.
    pub(crate) id_len: (usize, usize),
    /// Images a request may carry. Below Anthropic's 20 the stricter pixel limit for many
    /// images (2000 x 2000) does not apply.
    pub(crate) images_max: usize,
    /// Wants `reasoning_content` back on every assistant message of a tool loop.
    pub(crate) echo_reasoning: bool,
    /// Refuses a user message right after a tool message, and a null content.
    pub(crate) strict_turns: bool,
}

/// A row of the most portable kind; the table says where a service differs.
const fn service(
    name: &'static str,
    base_url: &'static str,
    base_url_variable: &'static str,
    key_variables: &'static [&'static str],
) -> Service {
    Service {
        name,
        api: "openai-completions",
        base_url,
        base_url_variable,
        key_variables,
        local: false,
        tokens_field: "max_tokens",
        stream_options: true,
        id_len: (1, 40),
        images_max: 20,
        echo_reasoning: false,
        strict_turns: false,
    }
}

const fn local(mut service: Service) -> Service {
    service.local = true;
    service
}

pub(super) const COMPLETION_TOKENS: &str = "max_completion_tokens";

#[rustfmt::skip]
pub(crate) static SERVICES: &[Service] = &[
    Service { api: "anthropic-messages", id_len: (1, 64), ..service("anthropic", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", &["ANTHROPIC_API_KEY"]) },
    Service { tokens_field: COMPLETION_TOKENS, ..service("openai", "https://api.openai.com/v1", "OPENAI_BASE_URL", &["OPENAI_API_KEY"]) },
    service("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_BASE_URL", &["OPENROUTER_API_KEY"]),
    // At most five images a request.
    Service { tokens_field: COMPLETION_TOKENS, images_max: 5, ..service("groq", "https://api.groq.com/openai/v1", "GROQ_BASE_URL", &["GROQ_API_KEY"]) },
    // Unknown fields are a 422; ids are exactly nine letters and digits.
    Service { stream_options: false, id_len: (9, 9), images_max: 8, strict_turns: true, ..service("mistral", "https://api.mistral.ai/v1", "MISTRAL_BASE_URL", &["MISTRAL_API_KEY"]) },
    service("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_BASE_URL", &["GEMINI_API_KEY", "GOOGLE_API_KEY"]),
    Service { echo_reasoning: true, ..service("deepseek", "https://api.deepseek.com", "DEEPSEEK_BASE_URL", &["DEEPSEEK_API_KEY"]) },
    Service { tokens_field: COMPLETION_TOKENS, ..service("xai", "https://api.x.ai/v1", "XAI_BASE_URL", &["XAI_API_KEY"]) },
    Service { tokens_field: COMPLETION_TOKENS, ..service("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_BASE_URL", &["CEREBRAS_API_KEY"]) },
    service("together", "https://api.together.xyz/v1", "TOGETHER_BASE_URL", &["TOGETHER_API_KEY"]),
    service("moonshot", "https://api.moonshot.ai/v1", "MOONSHOT_BASE_URL", &["MOONSHOT_API_KEY"]),
    service("zai", "https://api.z.ai/api/paas/v4", "ZAI_BASE_URL", &["ZAI_API_KEY"]),
    local(service("ollama", "http://127.0.0.1:11434/v1", "OLLAMA_BASE_URL", &[])),
    local(service("llamacpp", "http://127.0.0.1:8080/v1", "LLAMACPP_BASE_URL", &["LLAMA_API_KEY"])),
    local(service("vllm", "http://127.0.0.1:8000/v1", "VLLM_BASE_URL", &["VLLM_API_KEY"])),
    local(service("lmstudio", "http://127.0.0.1:1234/v1", "LMSTUDIO_BASE_URL", &[])),
    local(service("custom", "", "OPENAI_BASE_URL", &["OPENAI_API_KEY"])),
];

struct Known {
    provider: &'static str,
    id: &'static str,
    /// Tokens.
    context_window: u64,
    output_tokens_max: u32,
    price: Price,
    takes_images: bool,
}

const fn known(
    provider: &'static str,
    id: &'static str,
    context_window: u64,
    output_tokens_max: u32,
    dollars: [f64; 3],
) -> Known {
    let [input, output, cache_read] = dollars;
    Known {
        provider,
        id,
        context_window,
        output_tokens_max,
        price: Price {
            input,
            output,
            cache_read,
            cache_write: input,
            step: None,
        },
        takes_images: true,
    }
}

/// The row with a price for writing to the cache, in parts of the input price.
const fn write(factor: f64, mut row: Known) -> Known {
    row.price.cache_write = factor * row.price.input;
    row
}

/// The row with a price step: input tokens above it, and the factors for input and output.
const fn step(above: u64, input: f64, output: f64, mut row: Known) -> Known {
    row.price.step = Some((above, input, output));
    row
}

const fn claude(id: &'static str, window: u64, output: u32, dollars: [f64; 3]) -> Known {
    write(1.25, known("anthropic", id, window, output, dollars))
}

/// The window is 1.05M, of which the part below the price step is used.
const fn gpt(id: &'static str, dollars: [f64; 3]) -> Known {
    step(
        272_000,
        2.0,
        1.5,
        known("openai", id, 272_000, 128_000, dollars),
    )
}

const M: u64 = 1_000_000;

#[rustfmt::skip]
static KNOWN: &[Known] = &[
    claude("claude-fable-5-2", M, 128_000, [8.0, 40.0, 0.20]),
    claude("claude-fable-5-1", M, 128_000, [10.0, 50.0, 0.25]),
    claude("claude-fable-5", M, 128_000, [10.0, 50.0, 1.00]),
    claude("claude-mythos-5-1", M, 128_000, [10.0, 50.0, 0.25]),
    claude("claude-mythos-5", M, 128_000, [10.0, 50.0, 1.00]),
    claude("claude-opus-5-5", M, 128_000, [4.0, 20.0, 0.20]),
    claude("claude-opus-5", M, 128_000, [5.0, 25.0, 0.50]),
    claude("claude-opus-4-8", M, 128_000, [5.0, 25.0, 0.50]),
    claude("claude-opus-4-7", M, 128_000, [5.0, 25.0, 0.50]),
    claude("claude-opus-4-6", M, 128_000, [5.0, 25.0, 0.50]),
    claude("claude-opus-4-5", 200_000, 64_000, [5.0, 25.0, 0.50]),
    claude("claude-opus-4-5-20251101", 200_000, 64_000, [5.0, 25.0, 0.50]),
    claude("claude-sonnet-5-5", M, 128_000, [2.0, 10.0, 0.10]),
    claude("claude-sonnet-5", M, 128_000, [2.0, 10.0, 0.20]),
    claude("claude-sonnet-4-6", M, 128_000, [3.0, 15.0, 0.30]),
    claude("claude-sonnet-4-5", 200_000, 64_000, [3.0, 15.0, 0.30]),
    claude("claude-sonnet-4-5-20250929", 200_000, 64_000, [3.0, 15.0, 0.30]),
    step(100_000, 5.0, 5.0, claude("claude-haiku-5-5", M, 128_000, [0.10, 0.50, 0.01])),
    claude("claude-haiku-4-5", 200_000, 64_000, [1.0, 5.0, 0.10]),
    claude("claude-haiku-4-5-20251001", 200_000, 64_000, [1.0, 5.0, 0.10]),
    write(1.25, gpt("gpt-6-astra", [10.0, 50.0, 1.00])),
    write(1.25, gpt("gpt-6.1-sol", [2.0, 10.0, 0.10])),
    write(1.25, gpt("gpt-6-sol", [2.0, 10.0, 0.20])),
    write(1.25, gpt("gpt-6.1-terra", [1.0, 5.0, 0.05])),
    write(1.25, gpt("gpt-6-luna", [0.10, 0.50, 0.01])),
    write(1.25, gpt("gpt-5.6-sol", [4.0, 20.0, 0.40])),
    write(1.25, gpt("gpt-5.6-terra", [2.0, 12.0, 0.20])),
    write(1.25, gpt("gpt-5.6-luna", [0.20, 1.20, 0.02])),
    gpt("gpt-5.5", [5.0, 30.0, 0.50]),
    gpt("gpt-5.4", [2.5, 15.0, 0.25]),
    known("openai", "gpt-5.4-mini", 400_000, 128_000, [0.75, 4.5, 0.075]),
    known("openai", "gpt-5.1", 400_000, 128_000, [1.25, 10.0, 0.125]),
    known("openai", "gpt-5", 400_000, 128_000, [1.25, 10.0, 0.125]),
    known("openai", "gpt-5-mini", 400_000, 128_000, [0.25, 2.0, 0.025]),
    known("openai", "gpt-4.1", 1_047_000, 32_000, [2.0, 8.0, 0.50]),
    known("openai", "gpt-4.1-mini", 1_047_000, 32_000, [0.40, 1.60, 0.10]),
    known("openai", "gpt-4o", 128_000, 16_000, [2.5, 10.0, 1.25]),
    known("openai", "gpt-4o-mini", 128_000, 16_000, [0.15, 0.60, 0.075]),
    known("gemini", "gemini-4-argon", M, 32_000, [2.0, 10.0, 0.10]),
    known("gemini", "gemini-3.8-flash", M, 64_000, [0.75, 3.75, 0.075]),
    known("mistral", "mistral-large-4", M, 32_000, [0.7, 2.1, 0.07]),
    known("mistral", "mistral-large-2512", 262_000, 32_000, [0.5, 1.5, 0.05]),
    Known { takes_images: false, ..known("groq", "openai/gpt-oss-120b", 131_000, 64_000, [0.15, 0.60, 0.15]) },
];

/// What is assumed of a model nobody told us about.
const UNKNOWN_WINDOW: u64 = 128_000;
const UNKNOWN_OUTPUT_MAX: u32 = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheLifetime {
    FiveMinutes,
    OneHour,
}

pub(crate) fn find_service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}

/// The model `id` of `service`: known or assumed.
pub(crate) fn model(service: &'static Service, id: &str, lifetime: CacheLifetime) -> Model {
    let row = KNOWN
        .iter()
        .find(|row| row.provider == service.name && row.id == id);
    let mut price = row.map(|row| row.price);
    if let (Some(price), CacheLifetime::OneHour, "anthropic") = (&mut price, lifetime, service.name)
    {
        price.cache_write = 2.0 * price.input;
    }
    Model {
        provider: service.name,
        api: match service.name == "openai" && refuses_tools_in_chat(id) {
            true => "openai-responses",
            false => service.api,
        },
        id: id.to_owned(),
        context_window: row.map_or(UNKNOWN_WINDOW, |row| row.context_window),
        output_tokens_max: row.map_or(UNKNOWN_OUTPUT_MAX, |row| row.output_tokens_max),
        price,
        // Tried: a model that refuses them is asked again without.
        takes_images: row.is_none_or(|row| row.takes_images),
    }
}

/// GPT-5.6 and later, unless they do not think.
fn refuses_tools_in_chat(id: &str) -> bool {
    let version = id
        .strip_prefix("gpt-")
        .and_then(|rest| rest.split('-').next());
    version
        .and_then(json::number)
        .is_some_and(|version| version >= 5.6)
}

/// The provider that has the model `id`, for a spec without a provider.
pub(crate) fn provider_of(id: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|row| row.id == id)
        .map(|row| row.provider)
}

/// The known id of `provider` that a typo may have meant.
pub(crate) fn near(provider: &str, id: &str) -> Option<&'static str> {
    let rows = KNOWN.iter().filter(|row| row.provider == provider);
    text::nearest(id, &rows.map(|row| row.id).collect::<Vec<_>>())
}

impl Price {
    /// What `usage` costs; input above the price step makes the whole request dearer.
    pub(crate) fn cost(&self, usage: &Usage) -> Cost {
        let input_tokens = usage.total_input();
        let (input_factor, output_factor) = match self.step {
            Some((above, input, output)) if input_tokens > above => (input, output),
            _ => (1.0, 1.0),
        };
        // Counts of tokens are far below 2^53.
        let dollars = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        Cost {
            input: dollars(usage.input, self.input * input_factor),
            output: dollars(usage.output, self.output * output_factor),
            cache_read: dollars(usage.cache_read, self.cache_read * input_factor),
            cache_write: dollars(usage.cache_write, self.cache_write * input_factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn prices() {
        let usage = |input, output, cache_read, cache_write| Usage {
            input,
            output,
            cache_read,
            cache_write,
            cost: None,
        };
        use CacheLifetime::{FiveMinutes, OneHour};
        for (provider, id, lifetime, usage, want) in [
            ("anthropic", "claude-sonnet-5-5", FiveMinutes, usage(1000, 100, 10_000, 2000), 0.009),
            ("anthropic", "claude-sonnet-5-5", OneHour, usage(0, 0, 0, 2000), 0.008),
            ("anthropic", "claude-haiku-5-5", FiveMinutes, usage(100_000, 1000, 0, 0), 0.0105),
            ("anthropic", "claude-haiku-5-5", FiveMinutes, usage(1000, 1000, 0, 100_000), 0.0655),
            ("openai", "gpt-6.1-sol", FiveMinutes, usage(272_001, 0, 0, 0), 1.088_004),
        ] {
            let model = model(find_service(provider).unwrap(), id, lifetime);
            let cost = model.price.unwrap().cost(&usage).total();
            assert!((cost - want).abs() < 1e-9, "{id} {usage:?}: {cost}");
        }
    }
}

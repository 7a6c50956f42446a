//! The known models: window, output limit and prices. Figures of November 2026 from the
//! vendors' price pages and two public price files that agree.

use super::{Cost, Model, Usage};
use crate::base::error::{Error, Result};
use crate::base::json;
use crate::base::text;
use crate::base::time;

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Price {
    input: f64,
    output: f64,
    cache_read: f64,
    /// As a multiple of the input price, for the cache lifetime in use.
    cache_write_factor: f64,
    /// Input tokens above which a request costs more, and the factors for input and output.
    step: Option<(u64, f64, f64)>,
    /// The day (UTC) from which other prices apply: input, output, cache read.
    later: Option<(&'static str, [f64; 3])>,
}

struct KnownModel {
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
) -> KnownModel {
    KnownModel {
        provider,
        id,
        context_window,
        output_tokens_max,
        price: price(dollars),
        takes_images: true,
    }
}

const fn price([input, output, cache_read]: [f64; 3]) -> Price {
    Price {
        input,
        output,
        cache_read,
        cache_write_factor: 1.0,
        step: None,
        later: None,
    }
}

/// The row with a price for writing to the cache, as a multiple of the input price.
const fn write(factor: f64, mut row: KnownModel) -> KnownModel {
    row.price.cache_write_factor = factor;
    row
}

/// The row with a price step: input tokens above it, and the factors for input and output.
const fn step(above: u64, input: f64, output: f64, mut row: KnownModel) -> KnownModel {
    row.price.step = Some((above, input, output));
    row
}

/// The row with the prices that apply from a day on.
const fn from(day: &'static str, dollars: [f64; 3], mut row: KnownModel) -> KnownModel {
    row.price.later = Some((day, dollars));
    row
}

const fn without_images(mut row: KnownModel) -> KnownModel {
    row.takes_images = false;
    row
}

const fn claude(id: &'static str, window: u64, output: u32, dollars: [f64; 3]) -> KnownModel {
    write(1.25, known("anthropic", id, window, output, dollars))
}

/// The window is 1.05M tokens; mom uses the part below the price step.
const fn gpt(id: &'static str, dollars: [f64; 3]) -> KnownModel {
    let row = known("openai", id, 272_000, 128_000, dollars);
    step(272_000, 2.0, 1.5, row)
}

const M: u64 = 1_000_000;

#[rustfmt::skip]
static KNOWN: &[KnownModel] = &[
    claude("claude-fable-5-2", M, 128_000, [8.0, 40.0, 0.20]),
    claude("claude-fable-5-1", M, 128_000, [10.0, 50.0, 0.25]),
    claude("claude-fable-5", M, 128_000, [10.0, 50.0, 1.00]),
    claude("claude-mythos-5-2", M, 128_000, [8.0, 40.0, 0.20]),
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
    write(1.25, gpt("gpt-6.2-astra", [8.0, 40.0, 0.40])),
    write(1.25, gpt("gpt-6.2-sol", [2.0, 10.0, 0.10])),
    write(1.25, gpt("gpt-6-astra", [10.0, 50.0, 1.00])),
    write(1.25, gpt("gpt-6.1-sol", [2.0, 10.0, 0.10])),
    write(1.25, gpt("gpt-6-sol", [2.0, 10.0, 0.20])),
    write(1.25, gpt("gpt-6.1-terra", [1.0, 5.0, 0.05])),
    write(1.25, gpt("gpt-6-luna", [0.10, 0.50, 0.01])),
    write(1.25, gpt("gpt-5.6-sol", [4.0, 20.0, 0.40])),
    write(1.25, gpt("gpt-5.6-terra", [2.0, 12.0, 0.20])),
    write(1.25, gpt("gpt-5.6-luna", [0.20, 1.20, 0.02])),
    write(0.0, gpt("gpt-5.5", [5.0, 30.0, 0.50])),
    write(0.0, gpt("gpt-5.4", [2.5, 15.0, 0.25])),
    known("openai", "gpt-5.4-mini", 400_000, 128_000, [0.75, 4.5, 0.075]),
    known("openai", "gpt-5.1", 400_000, 128_000, [1.25, 10.0, 0.125]),
    known("openai", "gpt-5", 400_000, 128_000, [1.25, 10.0, 0.125]),
    known("openai", "gpt-5-mini", 400_000, 128_000, [0.25, 2.0, 0.025]),
    known("openai", "gpt-4.1", 1_047_000, 32_000, [2.0, 8.0, 0.50]),
    known("openai", "gpt-4.1-mini", 1_047_000, 32_000, [0.40, 1.60, 0.10]),
    known("openai", "gpt-4o", 128_000, 16_000, [2.5, 10.0, 1.25]),
    known("openai", "gpt-4o-mini", 128_000, 16_000, [0.15, 0.60, 0.075]),
    from("2026-12-01", [4.0, 20.0, 0.20], known("gemini", "gemini-4-argon", M, 65_000, [2.0, 10.0, 0.10])),
    known("gemini", "gemini-4-neon", M, 65_000, [3.0, 15.0, 0.15]),
    known("gemini", "gemini-4-hydrogen", M, 65_000, [1.5, 7.5, 0.075]),
    known("gemini", "gemini-4-carbon", M, 65_000, [2.0, 10.0, 0.10]),
    from("2027-01-01", [1.5, 7.5, 0.15], known("gemini", "gemini-3.8-flash", M, 64_000, [0.75, 3.75, 0.075])),
    known("mistral", "mistral-large-4", M, 262_000, [0.7, 2.1, 0.07]),
    known("mistral", "mistral-large-2512", 262_000, 32_000, [0.5, 1.5, 0.05]),
    without_images(known("groq", "openai/gpt-oss-120b", 131_000, 64_000, [0.15, 0.60, 0.075])),
    without_images(known("cerebras", "gpt-oss-120b", 131_000, 40_000, [0.35, 0.75, 0.35])),
    known("deepseek", "deepseek-flash", M, 384_000, [0.3, 1.2, 0.006]),
    without_images(known("deepseek", "deepseek-v4-pro", M, 384_000, [1.32, 3.96, 0.044])),
    step(200_000, 2.0, 2.0, known("xai", "grok-4.7", 500_000, 64_000, [2.0, 6.0, 0.5])),
    known("moonshot", "kimi-k3.1-pro", M, 64_000, [2.0, 10.0, 0.2]),
    known("moonshot", "kimi-k3", M, 64_000, [3.0, 15.0, 0.3]),
    without_images(known("zai", "glm-5.3", M, 64_000, [1.4, 4.4, 0.26])),
    without_images(known("zai", "glm-5.3-flash", M, 64_000, [0.15, 0.5, 0.03])),
];

/// Assumed for a model that is not in the table.
const UNKNOWN_WINDOW: u64 = 128_000;
const UNKNOWN_OUTPUT_MAX: u32 = 16_384;

/// How long a prompt stays in Anthropic's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheLifetime {
    FiveMinutes,
    OneHour,
}

fn find(provider: &str, id: &str) -> Option<&'static KnownModel> {
    let mut rows = KNOWN.iter();
    rows.find(|row| row.provider == provider && row.id == id)
}

pub(super) fn is_known(model: &Model) -> bool {
    find(model.provider, &model.id).is_some()
}

/// The model `id` of `provider`, which speaks `api`: known or assumed.
pub(crate) fn model(
    provider: &'static str,
    api: &'static str,
    id: &str,
    lifetime: CacheLifetime,
) -> Model {
    let row = find(provider, id);
    let mut price = row.map(|row| row.price);
    if let (Some(price), CacheLifetime::OneHour, "anthropic") = (&mut price, lifetime, provider) {
        price.cache_write_factor = 2.0;
    }
    let needs_responses = provider == "openai" && refuses_tools_in_chat(id);
    Model {
        provider,
        api: if needs_responses {
            "openai-responses"
        } else {
            api
        },
        id: id.to_owned(),
        context_window: row.map_or(UNKNOWN_WINDOW, |row| row.context_window),
        output_tokens_max: row.map_or(UNKNOWN_OUTPUT_MAX, |row| row.output_tokens_max),
        price,
        takes_images: row.is_none_or(|row| row.takes_images),
    }
}

/// Whether it is GPT-5.6 or later: they refuse tools in chat completions while they think.
fn refuses_tools_in_chat(id: &str) -> bool {
    let rest = id.strip_prefix("gpt-");
    let version = rest.and_then(|rest| json::number(rest.split('-').next()?));
    version.is_some_and(|version| version >= 5.6)
}

/// The provider that has the model `id`, for a spec without a provider.
pub(super) fn provider_of(id: &str) -> Option<&'static str> {
    let row = KNOWN.iter().find(|row| row.id == id)?;
    Some(row.provider)
}

/// The known id of `provider` that a typo may have meant.
pub(super) fn near(provider: &str, id: &str) -> Option<&'static str> {
    let rows = KNOWN.iter().filter(|row| row.provider == provider);
    text::nearest(id, &rows.map(|row| row.id).collect::<Vec<_>>())
}

impl Price {
    /// Parses `IN,OUT[,CACHED]`, dollars per million tokens; cached input costs as much as other
    /// input unless it is given.
    pub(super) fn parse(typed: &str) -> Result<Price> {
        let numbers = typed.split(',').map(|number| json::number(number.trim()));
        let dollars = numbers.map(|dollars| dollars.filter(|dollars| *dollars >= 0.0));
        match dollars.collect::<Option<Vec<f64>>>().as_deref() {
            Some([input, output]) => Ok(price([*input, *output, *input])),
            Some([input, output, cached]) => Ok(price([*input, *output, *cached])),
            _ => Err(Error::Usage(format!(
                "--price={typed}: write IN,OUT or IN,OUT,CACHED, dollars per million tokens, \
                 like --price=0.5,1.5"
            ))),
        }
    }

    /// What `usage` costs today.
    pub(super) fn cost(&self, usage: &Usage) -> Cost {
        self.cost_on(&time::iso(time::now_ms()), usage)
    }

    /// `day` as `2026-12-01` or longer. Input above the price step makes the whole request
    /// cost more.
    fn cost_on(&self, day: &str, usage: &Usage) -> Cost {
        let [input, output, cache_read] = match self.later {
            Some((first, dollars)) if day >= first => dollars,
            _ => [self.input, self.output, self.cache_read],
        };
        let (input_factor, output_factor) = match self.step {
            Some((above, input, output)) if usage.total_input() > above => (input, output),
            _ => (1.0, 1.0),
        };
        // Counts of tokens are far below 2^53.
        let dollars = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        let write = input * self.cache_write_factor;
        Cost {
            input: dollars(usage.input, input * input_factor),
            output: dollars(usage.output, output * output_factor),
            cache_read: dollars(usage.cache_read, cache_read * input_factor),
            cache_write: dollars(usage.cache_write, write * input_factor),
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
        let day = "2026-11-30T23:59:59Z";
        for (provider, id, lifetime, day, usage, want) in [
            ("anthropic", "claude-sonnet-5-5", FiveMinutes, day, usage(1000, 100, 10_000, 2000), 0.009),
            ("anthropic", "claude-sonnet-5-5", OneHour, day, usage(0, 0, 0, 2000), 0.008),
            ("anthropic", "claude-haiku-5-5", FiveMinutes, day, usage(100_000, 1000, 0, 0), 0.0105),
            ("anthropic", "claude-haiku-5-5", FiveMinutes, day, usage(1000, 1000, 0, 100_000), 0.0655),
            ("openai", "gpt-6.1-sol", FiveMinutes, day, usage(272_001, 0, 0, 0), 1.088_004),
            ("gemini", "gemini-4-argon", FiveMinutes, day, usage(1000, 100, 1000, 0), 0.0031),
            ("gemini", "gemini-4-argon", FiveMinutes, "2026-12-01T00:00:00Z", usage(1000, 100, 1000, 0), 0.0062),
        ] {
            let price = model(provider, "", id, lifetime).price.unwrap();
            let cost = price.cost_on(day, &usage).total();
            assert!((cost - want).abs() < 1e-9, "{id} {usage:?}: {cost}");
        }
        for (typed, want) in [
            ("2,10", Some(0.0035)), ("2, 10 ,0.5", Some(0.002)), ("0,0", Some(0.0)),
            ("2", None), ("2,-1", None), ("a,b", None), ("1,2,3,4", None), ("", None), ("1,1e400", None),
        ] {
            let cost = Price::parse(typed).map(|price| price.cost_on(day, &usage(500, 50, 1000, 0)).total());
            assert_eq!(cost.as_ref().ok(), want.as_ref(), "{typed}");
        }
    }
}

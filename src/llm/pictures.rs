//! The pictures of a request: which ones are sent, and what the model reads in place of the
//! others. Format and size are read from the picture itself; a server's verdict is stored for
//! each picture separately, as long as mom runs.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::learned::Learned;
use super::request::{SentPictures, Variation};
use super::services::Service;
use super::{Content, Image, Message};
use crate::base::bounded::Bounded;
use crate::base::text;

/// Base64 bytes of one picture; Anthropic's limit, which some of its error texts count this way.
const PICTURE_BYTES_MAX: usize = 5 << 20;
/// Base64 bytes of all pictures: Anthropic's body limit of 32 MB less the text.
const ALL_BYTES_MAX: usize = 24 << 20;
/// Pixels a side; Anthropic's limit.
const SIDE_PIXELS_MAX: u32 = 8_000;
/// The same with more than `MANY` pictures in the request.
const SIDE_PIXELS_MAX_OF_MANY: u32 = 2_000;
const MANY: usize = 20;
/// Old pictures are dropped in batches, so that the prefix does not change with every new one
/// (prompt caches and signed thinking depend on it).
const BATCH: usize = 8;
/// Characters shown of a server's reason.
const REASON_CHARS_MAX: usize = 200;
/// Characters shown of a picture's name.
const NAME_CHARS_MAX: usize = 300;
/// Pictures whose verdict is stored.
const REMEMBERED_MAX: usize = 10_000;
/// Base64 bytes that are searched for the size first; a multiple of four.
const HEADER_BYTES: usize = 4 << 10;

/// A hash that identifies a picture.
pub(super) type PictureKey = u64;

pub(super) fn key(image: &Image) -> PictureKey {
    // Samples only: to hash all would mean megabytes for each request.
    let (data, sample) = (image.data.as_bytes(), 4 << 10);
    let middle = data.get(data.len() / 2..).unwrap_or_default();
    let parts = [data, middle, &data[data.len().saturating_sub(sample)..]];
    let mut hasher = DefaultHasher::new();
    data.len().hash(&mut hasher);
    for part in parts {
        part[..part.len().min(sample)].hash(&mut hasher);
    }
    hasher.finish()
}

/// Which of the pictures that a server was sent it accepted or refused.
#[derive(Debug)]
pub(super) struct PictureMemory {
    /// Why a picture was refused; `None` for one that was accepted.
    verdicts: Bounded<PictureKey, Option<String>>,
    /// Base64 bytes of all pictures of a request.
    bytes_max: usize,
    /// Pictures of a request.
    count_max: usize,
}

impl Default for PictureMemory {
    fn default() -> PictureMemory {
        PictureMemory {
            verdicts: Bounded::new(REMEMBERED_MAX),
            bytes_max: ALL_BYTES_MAX,
            count_max: usize::MAX,
        }
    }
}

impl PictureMemory {
    pub(super) fn accept(&mut self, sent: &[PictureKey]) {
        for key in sent {
            self.verdicts.insert(*key, None);
        }
    }

    pub(super) fn refuse(&mut self, keys: &[PictureKey], reason: &str) {
        let reason = text::one_line(reason, REASON_CHARS_MAX);
        for key in keys {
            self.verdicts.insert(*key, Some(reason.clone()));
        }
    }

    /// Learns that a request with these pictures is too large: from now on fewer are sent, down
    /// to none. False, and the limit is reset, when no pictures were sent.
    pub(super) fn refuse_all(&mut self, sent: &SentPictures) -> bool {
        self.bytes_max = match sent.bytes {
            0 => ALL_BYTES_MAX,
            bytes => bytes / 2,
        };
        sent.bytes > 0
    }

    /// Learns that a request may have no more than `count` pictures. False when it had no more.
    pub(super) fn limit_count(&mut self, count: usize, sent: &SentPictures) -> bool {
        self.count_max = count;
        sent.keys.len() > count
    }

    /// The pictures of `sent` that no request has proved good, the newest first.
    pub(super) fn suspects(&self, sent: &[PictureKey]) -> Vec<PictureKey> {
        let mut suspects = Vec::new();
        for key in sent.iter().rev() {
            if self.verdicts.get(key).is_none() && !suspects.contains(key) {
                suspects.push(*key);
            }
        }
        suspects
    }
}

/// Which pictures of the messages are sent: the newest that fit, except those with a fault.
pub(super) struct PictureChoice<'a> {
    learned: &'a Learned,
    /// Left out of this request to find out whether the server refuses them.
    on_trial: &'a [PictureKey],
    /// Compared by address: the messages live longer than the request.
    too_old: Vec<*const Image>,
    many: bool,
}

impl<'a> PictureChoice<'a> {
    pub(super) fn of(
        messages: &[Message],
        service: &Service,
        learned: &'a Learned,
        variation: &'a Variation,
    ) -> PictureChoice<'a> {
        let contents = messages.iter().flat_map(Message::content);
        let images: Vec<&Image> = contents
            .filter_map(|content| match content {
                Content::Image(image) if image.data.len() <= PICTURE_BYTES_MAX => Some(image),
                _ => None,
            })
            .collect();
        let mut bytes = 0;
        let fitting = images
            .iter()
            .rev()
            .take(service.pictures_max.min(learned.pictures.count_max))
            .take_while(|image| {
                bytes += image.data.len();
                bytes <= learned.pictures.bytes_max
            });
        let old = images.len() - fitting.count();
        let batches = old.next_multiple_of(BATCH);
        // Rounded up only if the last ones stay, which the turn is about.
        let old = if batches + BATCH / 2 <= images.len() {
            batches
        } else {
            old
        };
        let address = |image: &&Image| std::ptr::from_ref::<Image>(image);
        PictureChoice {
            learned,
            on_trial: &variation.pictures_on_trial,
            too_old: images[..old].iter().map(address).collect(),
            many: images.len() - old > MANY,
        }
    }

    /// The picture's media type, or the sentence that the model reads in its place.
    pub(super) fn look(&self, image: &'a Image) -> Result<&'static str, String> {
        let key = key(image);
        let out = |why: &str| Err(format!("(A picture was here: {}. {why})", describe(image)));
        if !self.learned.model.takes_images {
            return out("This model takes no pictures.");
        }
        if image.data.len() > PICTURE_BYTES_MAX {
            return out("It was left out: it is larger than 3.75 MB. A smaller copy can be read.");
        }
        if let Some(Some(reason)) = self.learned.pictures.verdicts.get(&key) {
            return out(&format!(
                "It was left out: the model's service refused it ({reason})."
            ));
        }
        if self.on_trial.contains(&key) {
            return out("It was left out: the model's service refused it.");
        }
        if self.too_old.contains(&std::ptr::from_ref(image)) {
            return out("It is no longer shown.");
        }
        let Some((mime, size)) = inspect(image) else {
            return out("It was left out: it is no PNG, JPEG, GIF or WebP, whatever its name is.");
        };
        let side_max = if self.many {
            SIDE_PIXELS_MAX_OF_MANY
        } else {
            SIDE_PIXELS_MAX
        };
        match size {
            Some((width, height)) if width.max(height) > side_max => out(&format!(
                "It was left out: the model's service refuses more than {side_max} pixels a \
                 side. A smaller copy can be read."
            )),
            _ => Ok(mime),
        }
    }
}

/// `/workspace/a.png, image/png, 8001 x 1 pixels`
fn describe(image: &Image) -> String {
    let kind = match inspect(image) {
        Some((mime, Some((width, height)))) => format!("{mime}, {width} x {height} pixels"),
        Some((mime, None)) => mime.to_owned(),
        None => text::one_line(&image.mime, 40),
    };
    match text::one_line(&image.name, NAME_CHARS_MAX) {
        name if name.is_empty() => kind,
        name => format!("{name}, {kind}"),
    }
}

type Inspected = (&'static str, Option<(u32, u32)>);

/// Media type and size in pixels, read from the picture's first bytes.
fn inspect(image: &Image) -> Option<Inspected> {
    let data = image.data.as_bytes();
    let decode = |data: &[u8]| BASE64_STANDARD.decode(data).unwrap_or_default();
    let head = decode(&data[..data.len().min(HEADER_BYTES)]);
    match inspect_bytes(&head) {
        // A JPEG may begin with a lot of other data, such as metadata.
        Some(("image/jpeg", None)) => inspect_bytes(&decode(data)),
        found => found,
    }
}

fn inspect_bytes(bytes: &[u8]) -> Option<Inspected> {
    let at = |at: usize| bytes.get(at).map(|byte| u32::from(*byte));
    let big = |from: usize| Some(at(from)? << 8 | at(from + 1)?);
    let little = |from: usize| Some(at(from)? | at(from + 1)? << 8);
    let both = |width: Option<u32>, height: Option<u32>| Some((width?, height?));
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let long = |from: usize| Some(big(from)? << 16 | big(from + 2)?);
        return Some(("image/png", both(long(16), long(20))));
    }
    if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        return Some(("image/gif", both(little(6), little(8))));
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        let long = |from: usize| Some(little(from)? | at(from + 2)? << 16);
        let size = match bytes.get(12..16) {
            Some(b"VP8 ") => both(
                little(26).map(|width| width & 0x3fff),
                little(28).map(|height| height & 0x3fff),
            ),
            Some(b"VP8L") => {
                let bits = both(little(21), little(23));
                bits.map(|(low, high)| low | high << 16)
                    .map(|bits| (1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff)))
            }
            Some(b"VP8X") => both(long(24).map(|width| width + 1), long(27).map(|h| h + 1)),
            _ => None,
        };
        return Some(("image/webp", size));
    }
    if !bytes.starts_with(b"\xff\xd8\xff") {
        return None;
    }
    let mut from = 2;
    let size = loop {
        match (at(from), at(from + 1)) {
            (Some(0xff), Some(0xff)) => from += 1,
            // Start of frame: length, precision, height, width.
            (Some(0xff), Some(0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf)) => {
                break both(big(from + 7), big(from + 5));
            }
            (Some(0xff), Some(_)) => match big(from + 2) {
                Some(length) => from += 2 + length as usize,
                None => break None,
            },
            _ => break None,
        }
    };
    Some(("image/jpeg", size))
}

#[cfg(test)]
mod tests {
    use super::super::services::find;
    use super::super::tests::{model, picture};
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn sizes_stand_in_the_header() {
        let png = |w: u32, h: u32| [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &w.to_be_bytes(), &h.to_be_bytes()].concat();
        let jpeg = |before: &[u8]| [b"\xff\xd8".as_slice(), before, b"\xff\xc2\0\x11\x08\x1f\x41\0\x05"].concat();
        for (bytes, want) in [
            (png(8001, 1), Some(("image/png", Some((8001, 1))))),
            (b"\x89PNG\r\n\x1a\n".to_vec(), Some(("image/png", None))),
            (b"GIF89a\x41\x1f\x02\0".to_vec(), Some(("image/gif", Some((8001, 2))))),
            (jpeg(b""), Some(("image/jpeg", Some((5, 8001))))),
            (jpeg(b"\xff\xe1\0\x06abcd\xff\xff\xdb\0\x03x"), Some(("image/jpeg", Some((5, 8001))))),
            (jpeg(b"\xff\xe1"), Some(("image/jpeg", None))),
            (b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x41\x1f\x03\0".to_vec(), Some(("image/webp", Some((8001, 3))))),
            (b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x40\x9f\x00\0".to_vec(), Some(("image/webp", Some((8001, 3))))),
            (b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x40\x1f\0\x02\0\0".to_vec(), Some(("image/webp", Some((8001, 3))))),
            (b"BM".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(inspect_bytes(&bytes), want, "{bytes:?}");
        }
        crate::mutate::survive_some(20_000, &["RIFF\0\0\0\0WEBPVP8X", "GIF89a\x41\x1f"], |_, input| {
            inspect_bytes(&[b"\xff\xd8\xff", input].concat());
            inspect_bytes(input);
        });
    }

    #[test]
    fn what_is_left_out() {
        let learned = Learned::new(model("custom", "m"), 0);
        let variation = Variation::default();
        let sent = |pictures: &[Message], pictures_max| {
            let service = Service {
                pictures_max,
                ..*find("custom").unwrap()
            };
            let choice = PictureChoice::of(pictures, &service, &learned, &variation);
            let looks = pictures.iter().flat_map(Message::content);
            let fits = |content: &&Content| matches!(content, Content::Image(image) if choice.look(image).is_ok());
            looks.filter(fits).count()
        };
        let of = |count: usize, bytes: usize| vec![picture("1", 1, bytes); count];
        for (pictures, pictures_max, want) in [
            (of(20, 0), 20, 20),
            // From here on eight are dropped at a time: the prefix stays for seven more.
            (of(21, 0), 20, 13),
            (of(28, 0), 20, 20),
            (of(29, 0), 20, 13),
            (of(3, 0), 1, 1),
            (of(5, PICTURE_BYTES_MAX), 20, 4),
            (
                vec![picture("1", 1, PICTURE_BYTES_MAX + 4), picture("2", 1, 0)],
                20,
                1,
            ),
            (vec![picture("1", 8001, 0), picture("2", 8000, 0)], 20, 1),
            ([of(20, 0), vec![picture("2", 2001, 0)]].concat(), 100, 20),
        ] {
            let name = format!("{} of {pictures_max}", pictures.len());
            assert_eq!(sent(&pictures, pictures_max), want, "{name}");
        }
    }
}

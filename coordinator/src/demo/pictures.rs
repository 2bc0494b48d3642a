//! The demo's images: small JPEGs, generated deterministically, so that a class has the same bytes
//! on every run.

use jpeg_encoder::{ColorType, Encoder};
use shared::Wnid;

/// Width and height in pixels.
const SIDE: u16 = 96;
/// Tars are padded to whole records of this many bytes.
const RECORD: usize = 10_240;
const QUALITY: u8 = 85;

/// The tar of a class in ImageNet's form: `<wnid>_<number>.JPEG`, one after the other.
pub(super) fn tar_of(wnid: Wnid, seed: u32) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..20 + seed * 8 % 21 {
        let jpeg = draw(seed, number);
        let mut header = tar::Header::new_ustar();
        header.set_size(jpeg.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_640_995_200);
        archive
            .append_data(
                &mut header,
                format!("{wnid}_{number}.JPEG"),
                jpeg.as_slice(),
            )
            .expect("writing to memory with a short name succeeds");
    }
    let mut bytes = archive.into_inner().expect("writing to memory succeeds");
    bytes.resize(bytes.len().next_multiple_of(RECORD), 0);
    bytes
}

/// One image: a pattern and a colour for each class, shifted by each number.
fn draw(seed: u32, number: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(usize::from(SIDE) * usize::from(SIDE) * 3);
    let mut noise = seed.wrapping_mul(0x9e37_79b9) ^ number.wrapping_mul(0x85eb_ca6b) | 1;
    for y in 0..u32::from(SIDE) {
        for x in 0..u32::from(SIDE) {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            let shade = match seed % 4 {
                0 => x + y + 4 * number,
                1 => (x.abs_diff(48).pow(2) + y.abs_diff(48).pow(2)) / 16 + 6 * number,
                2 => {
                    if (x + 3 * number) / 12 % 2 == (y / 12) % 2 {
                        220
                    } else {
                        40
                    }
                }
                _ => x * y / 36 + 5 * number,
            };
            let grain = noise % 24;
            pixels.extend([1, 2, 3].map(|channel| wave(shade * channel + 40 * seed + grain)));
        }
    }
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, QUALITY)
        .encode(&pixels, SIDE, SIDE, ColorType::Rgb)
        .expect("the picture has the size that it says");
    jpeg
}

/// A triangle wave between 0 and 255.
fn wave(value: u32) -> u8 {
    let folded = value % 510;
    u8::try_from(folded.min(510 - folded)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_padded_deterministic_tar_of_jpegs() {
        let wnid: Wnid = "n02124075".parse().unwrap();
        let bytes = tar_of(wnid, 3);
        assert_eq!(bytes.len() % RECORD, 0);
        assert_eq!(bytes, tar_of(wnid, 3));
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                assert!(content.starts_with(&[0xff, 0xd8]) && content.ends_with(&[0xff, 0xd9]));
                entry.path().unwrap().display().to_string()
            })
            .collect();
        assert_eq!(names.len(), 23);
        assert_eq!(names[22], "n02124075_22.JPEG");
    }
}

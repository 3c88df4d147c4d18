//! The name that a certificate proves.
//!
//! In: a certificate in DER that was verified already, so who made it is trusted and its shape is
//! that of X.509; any other bytes have no name. Out: the common name of its subject, else its first
//! alternative name. Source: RFC 5280, section 4.1; ITU-T X.690, section 8.

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Kinds of alternative names that are text: an address of mail, a name of DNS, a URI.
const TEXT_NAMES: [u8; 3] = [0x81, 0x82, 0x86];
/// Kinds of strings that are UTF-8 or part of it: UTF8String, PrintableString, IA5String.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// 2.5.4.3, `id-at-commonName`.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17, `id-ce-subjectAltName`.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Longest name that we take: X.520's limit of a common name is 64.
const MOST_BYTES: usize = 256;

/// The name that a certificate proves.
#[must_use]
pub fn name_in(certificate: &[u8]) -> Option<String> {
    let (_, whole, _) = element(certificate)?;
    let (_, mut fields, _) = element(whole)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, signature, issuer, validity.
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let (_, subject, rest) = element(fields)?;
    common_name(subject).or_else(|| alternative_name(rest))
}

/// An element's tag and content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(first) {
        short @ 0..0x80 => (short, rest),
        long => {
            // DER has no length without an end, and no object of ours has 16 MiB.
            let count = long & 0x7f;
            if !(1..=3).contains(&count) {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(count)?;
            let add = |sum: usize, digit: &u8| sum << 8 | usize::from(*digit);
            (digits.iter().fold(0, add), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The elements one after another, until the end or what is none.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(bytes)?;
        bytes = rest;
        Some((tag, content))
    })
}

/// A name is sequences of sets of pairs, the most special one last.
fn common_name(subject: &[u8]) -> Option<String> {
    let sets = elements(subject).filter(|(tag, _)| *tag == SET);
    let pairs = sets.flat_map(|(_, set)| elements(set));
    let names = pairs.filter_map(|(_, pair)| {
        let (tag, id, rest) = element(pair)?;
        let (kind, value, _) = element(rest)?;
        (tag == OBJECT_ID && id == COMMON_NAME && TEXTS.contains(&kind)).then_some(value)
    });
    names.last().and_then(text)
}

/// Extensions are sequences of an id, whether they are critical, and octets that hold the rest.
fn alternative_name(fields: &[u8]) -> Option<String> {
    let (_, extensions) = elements(fields).find(|(tag, _)| *tag == EXTENSIONS)?;
    let (_, extensions, _) = element(extensions)?;
    let wanted = elements(extensions).find_map(|(_, extension)| {
        let mut parts = elements(extension);
        let (_, id) = parts.next()?;
        let (_, octets) = parts.find(|(tag, _)| *tag == OCTETS)?;
        (id == ALTERNATIVE_NAMES).then_some(octets)
    })?;
    let (tag, names, _) = element(wanted)?;
    let mut names = elements(names).filter(|(kind, _)| TEXT_NAMES.contains(kind));
    (tag == SEQUENCE)
        .then(|| names.next())
        .flatten()
        .and_then(|(_, name)| text(name))
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = !text.is_empty() && text.len() <= MOST_BYTES;
    (fits && !text.contains(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut bytes = vec![tag];
        match content.len() {
            short @ 0..0x80 => bytes.push(u8::try_from(short).unwrap()),
            long => bytes.extend([0x82, u8::try_from(long >> 8).unwrap(), (long & 0xff) as u8]),
        }
        bytes.extend(content);
        bytes
    }

    fn name(pairs: &[(&[u8], u8, &str)]) -> Vec<u8> {
        let sets: Vec<Vec<u8>> = pairs
            .iter()
            .map(|(id, kind, value)| {
                let pair = [der(OBJECT_ID, &[id]), der(*kind, &[value.as_bytes()])].concat();
                der(SET, &[&der(SEQUENCE, &[&pair])])
            })
            .collect();
        der(SEQUENCE, &[&sets.concat()])
    }

    fn certificate(subject: &[u8], alternative: Option<(u8, &str)>) -> Vec<u8> {
        let issuer = name(&[(COMMON_NAME, 0x0c, "the issuer")]);
        let small = der(SEQUENCE, &[]);
        let serial = [2, 1, 7];
        let mut fields = vec![
            der(VERSION, &[&[2, 1, 2]]),
            serial.to_vec(),
            small.clone(),
            issuer,
            small.clone(),
            subject.to_vec(),
            small.clone(),
        ];
        if let Some((kind, value)) = alternative {
            let names = der(SEQUENCE, &[&der(kind, &[value.as_bytes()])]);
            let extension = [
                der(OBJECT_ID, &[ALTERNATIVE_NAMES]),
                vec![1, 1, 0xff],
                der(OCTETS, &[&names]),
            ];
            let extension = der(SEQUENCE, &[&extension.concat()]);
            fields.push(der(EXTENSIONS, &[&der(SEQUENCE, &[&extension])]));
        }
        let whole = [der(SEQUENCE, &[&fields.concat()]), small.clone(), small];
        der(SEQUENCE, &[&whole.concat()])
    }

    const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

    #[test]
    fn the_common_name_is_taken_and_the_last_of_several() {
        let subject = name(&[
            (COMMON_NAME, 0x13, "first"),
            (ORGANIZATION, 0x0c, "Example"),
            (COMMON_NAME, 0x0c, "scraper-ü"),
        ]);
        let found = name_in(&certificate(&subject, Some((0x82, "dns.example"))));
        assert_eq!(found.as_deref(), Some("scraper-ü"));
    }

    #[test]
    fn without_a_common_name_the_first_alternative_name_is_taken() {
        let subject = name(&[(ORGANIZATION, 0x0c, "Example")]);
        for (kind, value) in [(0x82, "dns.example"), (0x86, "spiffe://a/b"), (0x81, "a@b")] {
            let found = name_in(&certificate(&subject, Some((kind, value))));
            assert_eq!(found.as_deref(), Some(value));
        }
        // An address is no name.
        assert_eq!(name_in(&certificate(&subject, Some((0x87, "addr")))), None);
        assert_eq!(name_in(&certificate(&subject, None)), None);
    }

    #[test]
    fn names_that_could_be_taken_for_others_are_none() {
        for odd in ["", "a\nb", "a\0b"] {
            let subject = name(&[(COMMON_NAME, 0x0c, odd)]);
            assert_eq!(name_in(&certificate(&subject, None)), None, "{odd:?}");
        }
    }

    #[test]
    fn half_a_certificate_has_no_name_and_breaks_nothing() {
        let subject = name(&[(COMMON_NAME, 0x0c, "me")]);
        let whole = certificate(&subject, Some((0x82, "dns.example")));
        for length in 0..whole.len() {
            assert_eq!(name_in(&whole[..length]), None);
        }
        for at in 0..whole.len() {
            let mut odd = whole.clone();
            odd[at] ^= 0xff;
            let _ = name_in(&odd);
        }
    }
}

//! Volumes and what is in them: headers, records and marks, damaged in every way.
//!
//! Invariant: a damage either is found and costs no more messages than its case allows, or does no harm and is not
//! found.

use crate::image::Image;
use crate::{Mail, Row, build, differences, outcome_of, print, run, through};
use rookery_kv::engine::Space;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A record of a volume: where it begins and ends, and whether it is a message.
fn records_of(octets: &[u8]) -> Vec<(usize, usize, bool)> {
    let mut records = Vec::new();
    let mut at = 64;
    while at + 56 <= octets.len() && octets[at..at + 4] == 0x6352_6b52_u32.to_le_bytes() {
        let stored = u64::from_le_bytes(octets[at + 32..at + 40].try_into().expect("eight octets"));
        let end = at + 56 + stored as usize;
        records.push((at, end, octets[at + 4] == 1));
        at = end.next_multiple_of(8);
    }
    records
}

/// What a damage of the volumes does, and what must come of it.
struct VolumeCase {
    kind: &'static str,
    damage: &'static str,
    /// The kind it is found as; or why it is no harm and not to be found.
    found_as: Result<&'static str, &'static str>,
    /// How many messages' octets may be gone.
    lost_max: usize,
    harm: fn(&mut Image, &str),
}

fn octets<'a>(image: &'a mut Image, name: &str) -> &'a mut Vec<u8> {
    image.files.get_mut(name).expect("the volume is there")
}

/// The first, or the last, record of a volume that is a message, or is not.
fn nth(image: &Image, name: &str, is_message: bool, last: bool) -> (usize, usize) {
    let mut records = records_of(&image.files[name]);
    records.retain(|(_, _, message)| *message == is_message);
    let record = if last { records.last() } else { records.first() };
    record.map(|(start, end, _)| (*start, *end)).expect("the volume has such a record")
}

const NO_HARM_MARK: &str = "an earlier mark is left; a lost end is noticed if it reaches behind that";
const NO_HARM_COPY: &str = "nothing refers to it: like the remains of a crash";

const VOLUME_CASES: [VolumeCase; 18] = [
    VolumeCase {
        kind: "volume header",
        damage: "Flip",
        found_as: Ok("volume file"),
        lost_max: 0,
        harm: |image, name| octets(image, name)[10] ^= 1,
    },
    VolumeCase {
        kind: "volume header",
        damage: "Drop",
        found_as: Ok("volume file"),
        lost_max: 0,
        harm: |image, name| octets(image, name)[..64].fill(0),
    },
    VolumeCase {
        kind: "volume header",
        damage: "Duplicate",
        found_as: Ok("volume file"),
        lost_max: 0,
        harm: |image, name| {
            let other = image.files.keys().find(|other| *other != name).cloned().expect("another volume");
            let header = image.files[&other][..64].to_vec();
            octets(image, name)[..64].copy_from_slice(&header);
        },
    },
    VolumeCase {
        kind: "volume header",
        damage: "Truncate",
        found_as: Ok("volume file"),
        lost_max: usize::MAX,
        harm: |image, name| octets(image, name).truncate(40),
    },
    VolumeCase {
        kind: "volume file",
        damage: "Flip",
        found_as: Ok("volume record"),
        lost_max: 1,
        harm: |image, name| {
            let middle = octets(image, name).len() / 2;
            octets(image, name)[middle] ^= 8;
        },
    },
    VolumeCase {
        kind: "volume file",
        damage: "Drop",
        found_as: Ok("volume file"),
        lost_max: usize::MAX,
        harm: |image, name| drop(image.files.remove(name)),
    },
    VolumeCase {
        kind: "volume file",
        damage: "Duplicate",
        found_as: Ok("volume file"),
        lost_max: 0,
        harm: |image, name| {
            let copy = image.files[name].clone();
            image.files.insert("v00000fff.vol".into(), copy);
        },
    },
    VolumeCase {
        kind: "volume file",
        damage: "Truncate",
        found_as: Ok("volume record"),
        lost_max: usize::MAX,
        harm: |image, name| {
            let half = octets(image, name).len() / 2;
            octets(image, name).truncate(half);
        },
    },
    VolumeCase {
        kind: "volume record",
        damage: "Flip",
        found_as: Ok("volume record"),
        lost_max: 1,
        harm: |image, name| {
            let (_, end) = nth(image, name, true, false);
            octets(image, name)[end - 1] ^= 1;
        },
    },
    VolumeCase {
        kind: "volume record",
        damage: "Flip head",
        found_as: Ok("volume record"),
        lost_max: 1,
        harm: |image, name| {
            let (start, _) = nth(image, name, true, true);
            octets(image, name)[start + 20] ^= 1;
        },
    },
    VolumeCase {
        kind: "volume record",
        damage: "Drop",
        found_as: Ok("volume record"),
        lost_max: 1,
        harm: |image, name| {
            let (start, end) = nth(image, name, true, false);
            octets(image, name)[start..end].fill(0);
        },
    },
    VolumeCase {
        kind: "volume record",
        damage: "Duplicate",
        found_as: Err(NO_HARM_COPY),
        lost_max: 0,
        harm: |image, name| {
            let (start, end) = nth(image, name, true, false);
            let copy = image.files[name][start..end].to_vec();
            let file = octets(image, name);
            file.resize(file.len().next_multiple_of(8), 0);
            file.extend_from_slice(&copy);
        },
    },
    VolumeCase {
        kind: "volume record",
        damage: "Copy over",
        found_as: Ok("volume record"),
        lost_max: 2,
        harm: |image, name| {
            // A copy over another record, whose own octets stay behind it as far as they are longer.
            let source = image.files.keys().find(|other| *other != name).cloned().expect("another volume");
            let (from, from_end) = nth(image, &source, true, true);
            let copy = image.files[&source][from..from_end].to_vec();
            let (start, _) = nth(image, name, true, false);
            octets(image, name)[start..start + copy.len()].copy_from_slice(&copy);
        },
    },
    VolumeCase {
        kind: "volume record",
        damage: "Truncate",
        found_as: Ok("volume record"),
        lost_max: 1,
        harm: |image, name| {
            let (_, end) = nth(image, name, true, true);
            octets(image, name).truncate(end - 1);
        },
    },
    VolumeCase {
        kind: "volume mark",
        damage: "Flip",
        found_as: Err(NO_HARM_MARK),
        lost_max: 0,
        harm: |image, name| {
            let (start, _) = nth(image, name, false, true);
            octets(image, name)[start + 16] ^= 1;
        },
    },
    VolumeCase {
        kind: "volume mark",
        damage: "Drop",
        found_as: Err(NO_HARM_MARK),
        lost_max: 0,
        harm: |image, name| {
            let (start, end) = nth(image, name, false, true);
            octets(image, name)[start..end].fill(0);
        },
    },
    VolumeCase {
        kind: "volume mark",
        damage: "Duplicate",
        found_as: Err("it says again what it said"),
        lost_max: 0,
        harm: |image, name| {
            let (start, end) = nth(image, name, false, true);
            let copy = image.files[name][start..end].to_vec();
            let file = octets(image, name);
            file.resize(file.len().next_multiple_of(8), 0);
            file.extend_from_slice(&copy);
        },
    },
    VolumeCase {
        kind: "volume mark",
        damage: "Truncate",
        found_as: Err(NO_HARM_MARK),
        lost_max: 0,
        harm: |image, name| {
            // Only a mark at the end of the file can be cut without anything else.
            let (start, end) = nth(image, name, false, true);
            let file = octets(image, name);
            match end + 8 > file.len() {
                true => file.truncate(end - 1),
                false => file[start + 40..end].fill(0),
            }
        },
    },
];

async fn volume_case(image: Arc<Image>, before: Arc<Mail>, case: &'static VolumeCase, name: String) -> Row {
    let label = format!("{} {} {name}", case.kind, case.damage);
    let mut damaged = Image::clone(&image);
    (case.harm)(&mut damaged, &name);
    let (found, report, mended, after) = through(&label, &damaged).await;
    let row = |found: String, outcome: String| Row {
        kind: case.kind.into(),
        damage: case.damage.into(),
        found,
        outcome,
    };
    let kind = match case.found_as {
        Ok(kind) => kind,
        Err(reason) => {
            assert!(found.is_empty(), "{label}: {found:#?}");
            assert_eq!(differences(&before, &after), 0, "{label}");
            return row("not found".into(), format!("no harm: {reason}"));
        }
    };
    let finding = found.iter().find(|f| f.kind == kind).unwrap_or_else(|| panic!("{label}: {found:#?}"));
    let gone: BTreeSet<&Vec<u8>> = before
        .iter()
        .filter(|(key, seen)| after.get(*key) != Some(*seen))
        .map(|(_, (_, _, body))| body)
        .collect();
    assert!(gone.len() <= case.lost_max, "{label}: {} messages are gone\n{report}", gone.len());
    assert!(after.iter().all(|(key, seen)| before.get(key) == Some(seen)), "{label}: mail has changed");
    let is_gone = |key: &(Space, Vec<u8>)| key.0 == Space::Meta && key.1.starts_with(b"quarantine/message/");
    let aside = mended.records.keys().filter(|key| is_gone(key)).count();
    assert!(aside >= gone.len(), "{label}: {} messages are gone, and {aside} in quarantine", gone.len());
    row(format!("{kind}: {}", finding.what), outcome_of(&report, kind, &finding.record))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_and_every_damage() {
    let (image, before) = build().await;
    let (image, before) = (Arc::new(image), Arc::new(before));
    let volumes: Vec<&String> = image.files.keys().collect();
    let small: Vec<&String> =
        volumes.iter().filter(|name| image.files[**name].len() < 600_000).copied().collect();
    let large = volumes.iter().find(|name| image.files[**name].len() > 600_000).expect("a large volume");
    let mut cases = Vec::new();
    for case in &VOLUME_CASES {
        let has_marks =
            |name: &&String| records_of(&image.files[*name]).iter().any(|(_, _, message)| !message);
        let mut names: Vec<&String> = vec![small[0], small[small.len() - 1]];
        match case.kind {
            "volume mark" => names.retain(|name| has_marks(name)),
            _ if case.damage != "Copy over" => names.push(large),
            _ => {}
        }
        for name in names {
            let label = format!("{} {} {name}", case.kind, case.damage);
            cases.push((label, volume_case(image.clone(), before.clone(), case, name.clone())));
        }
    }
    let (rows, failures) = run(cases).await;
    print(&rows);
    assert!(failures.is_empty(), "{failures:#?}");
}

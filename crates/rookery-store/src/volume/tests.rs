//! What goes in comes out, whole and in parts, and what was damaged is said to be.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use super::*;
use crate::records::ContentRecord;
use proptest::prelude::*;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_types::{AccountId, ContentId, ThreadId};

const CONTENT: ContentId = ContentId([3; 16]);

fn account() -> AccountId {
    AccountId::new(5).unwrap()
}

fn volumes(disk: &SimDisk) -> Arc<Volumes> {
    Arc::new(Volumes::open(Arc::new(disk.files()), StoreId([1; 16]), 64 << 20).unwrap())
}

fn mail(n: usize) -> Vec<u8> {
    format!(
        "From: Ann <ann{n}@mail.example>\r\nTo: joe@mail.example\r\nSubject: the report of day {n}\r\n\
         Message-ID: <{}@mail.example>\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nDear Joe,\r\n\
         here are the {} numbers that you asked for.\r\n\r\nYours, Ann\r\n",
        n * 7919,
        n % 17
    )
    .into_bytes()
}

fn dictionary() -> Option<Vec<u8>> {
    let samples: Vec<Vec<u8>> = (0..500).map(mail).collect();
    let sizes: Vec<usize> = samples.iter().map(Vec::len).collect();
    train(&samples.concat(), &sizes)
}

/// Octets that zstd can make nothing of, and such that it can, in turns.
fn body(octets: usize, seed: u64, turns: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let text = mail(seed as usize % 1000);
    (0..octets)
        .map(|at| if (at / turns).is_multiple_of(2) { text[at % text.len()] } else { random() })
        .collect()
}

/// The ways a message can come to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Arrived,
    ArrivedLarge,
    Packed,
    WithDictionary,
    PackedLarge,
    Moved,
}

const WAYS: [Way; 6] =
    [Way::Arrived, Way::ArrivedLarge, Way::Packed, Way::WithDictionary, Way::PackedLarge, Way::Moved];

fn store(volumes: &Arc<Volumes>, way: Way, body: &[u8]) -> Placed {
    let mut packer = Packer::new().unwrap();
    match way {
        Way::Arrived => volumes.append(account(), CONTENT, body).unwrap(),
        Way::ArrivedLarge => {
            let mut large = volumes.begin_large().unwrap();
            body.chunks(100_001).for_each(|piece| large.push(piece).unwrap());
            large.end().unwrap();
            large.place(AccountId::new(99).unwrap(), CONTENT).unwrap();
            // The second one gets a copy.
            large.place(account(), CONTENT).unwrap()
        }
        Way::PackedLarge => {
            let mut large = volumes.begin_packed_large().unwrap();
            body.chunks(FRAME_OCTETS).for_each(|frame| large.pack(frame, Some(&mut packer)).unwrap());
            large.end().unwrap();
            large.place(account(), CONTENT).unwrap()
        }
        Way::Packed | Way::WithDictionary | Way::Moved => {
            let train = || if way == Way::WithDictionary { dictionary() } else { None };
            volumes.begin_packing(train).unwrap();
            let packer = (way != Way::Moved).then_some(&mut packer);
            volumes.append_packed(account(), CONTENT, body, packer).unwrap()
        }
    }
}

fn record_of(placed: &Placed, size: usize) -> ContentRecord {
    let (locator, stored) = (placed.locator, placed.stored);
    ContentRecord { locator, size: size as u32, stored, references: 1, thread: ThreadId(1) }
}

fn assert_reads(volumes: &Volumes, placed: &Placed, body: &[u8], cuts: &[(usize, usize)]) {
    let content = record_of(placed, body.len());
    assert!(volumes.read(&content, account(), CONTENT).unwrap() == body);
    volumes.verify(placed.locator, account(), CONTENT).unwrap();
    let record = volumes.record(placed.locator, account(), CONTENT).unwrap();
    assert_eq!(record.size(), body.len() as u64);
    for (from, octets) in cuts {
        let from = from % (body.len() + 2);
        let part = volumes.read_record(&record, from as u64, *octets).unwrap();
        let start = from.min(body.len());
        assert!(part == body[start..start.saturating_add(*octets).min(body.len())], "{from} {octets}");
    }
    let (mut span, mut scratch) = (Vec::new(), Vec::new());
    volumes.read_span(placed.locator, placed.stored as usize, &mut span).unwrap();
    let wanted = Wanted { account: account(), content: CONTENT, size: body.len() as u32 };
    assert!(volumes.message_in(&span, placed.locator, 0, wanted, &mut scratch).unwrap() == body);
    let other = Wanted { size: wanted.size + 1, ..wanted };
    assert!(volumes.message_in(&span, placed.locator, 0, other, &mut scratch).is_err());
    assert!(volumes.record(placed.locator, account(), ContentId([4; 16])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_goes_in_comes_out_and_so_does_every_part(
        sizes in proptest::collection::vec(
            prop_oneof![0_usize..5000, Just(FRAME_OCTETS - 1), Just(FRAME_OCTETS), Just(FRAME_OCTETS + 1),
                250_000_usize..800_000, Just(2_000_000)],
            1..4,
        ),
        seed: u64,
        turns in prop_oneof![1_usize..2, 1000_usize..600_000],
        cuts in proptest::collection::vec((any::<usize>(), prop_oneof![0_usize..3000, 200_000_usize..1_400_000]), 6),
    ) {
        for way in WAYS {
            let disk = SimDisk::new(1);
            let written = volumes(&disk);
            let bodies: Vec<Vec<u8>> = sizes.iter().map(|size| body(*size, seed, turns)).collect();
            let placed: Vec<Placed> = bodies.iter().map(|body| store(&written, way, body)).collect();
            for again in [false, true] {
                let volumes = if again { volumes(&disk) } else { written.clone() };
                for (body, placed) in bodies.iter().zip(&placed) {
                    assert_reads(&volumes, placed, body, &cuts);
                }
            }
        }
    }
}

#[test]
fn what_is_packed_is_smaller_and_what_gains_nothing_stays_as_it_is() {
    let disk = SimDisk::new(1);
    let volumes = volumes(&disk);
    let coding = |placed: &Placed| volumes.record(placed.locator, account(), CONTENT).unwrap().header.coding;
    let small = store(&volumes, Way::WithDictionary, &mail(777_777));
    assert!(matches!(coding(&small), Coding::WithDictionary(_)));
    assert!(small.stored as usize * 2 < mail(777_777).len(), "{} octets", small.stored);
    let zeros = vec![0; 100_000];
    assert!(store(&volumes, Way::Packed, &zeros).stored < 1000);
    let noise: Vec<u8> = body(900_000, 77, 1).into_iter().skip(1).step_by(2).collect();
    assert_eq!(coding(&store(&volumes, Way::Packed, &noise[..100_000])), Coding::Raw);
    assert_eq!(coding(&store(&volumes, Way::Packed, &noise)), Coding::Raw);
    // Only what gains is packed, frame by frame.
    let mixed = [vec![b'x'; FRAME_OCTETS], noise[..FRAME_OCTETS].to_vec(), vec![b'y'; 10]].concat();
    let placed = store(&volumes, Way::Packed, &mixed);
    assert_eq!(coding(&placed), Coding::Framed);
    assert!((FRAME_OCTETS..FRAME_OCTETS + 2000).contains(&(placed.stored as usize)));
    assert_reads(&volumes, &placed, &mixed, &[(FRAME_OCTETS - 5, 10), (2 * FRAME_OCTETS - 5, 10)]);
}

#[test]
fn large_messages_are_to_be_packed_only_if_it_pays() {
    let disk = SimDisk::new(1);
    let volumes = volumes(&disk);
    let purpose = |body: &[u8]| {
        let placed = store(&volumes, Way::ArrivedLarge, body);
        volumes.purpose(placed.locator.volume).unwrap()
    };
    assert_eq!(purpose(&vec![b'x'; 600_000]), Some(Purpose::Large));
    let noise: Vec<u8> = body(1_300_000, 5, 1).into_iter().skip(1).step_by(2).collect();
    assert_eq!(purpose(&noise), Some(Purpose::Settled));
}

/// One octet of a record is turned over, each in turn: it is never read as if nothing had happened.
#[test]
fn every_flipped_octet_is_noticed() {
    for way in WAYS {
        let disk = SimDisk::new(1);
        let large = matches!(way, Way::ArrivedLarge | Way::PackedLarge);
        let body = if large { body(600_000, 3, 200_000) } else { mail(99) };
        let placed = store(&volumes(&disk), way, &body);
        let files = disk.files();
        let name = name(placed.locator.volume);
        let step = if large { 4999 } else { 1 };
        let last = placed.stored - 1;
        for at in (0..placed.stored).step_by(step).chain([last]) {
            let place = placed.locator.offset + u64::from(at);
            let file = files.open(&name).unwrap();
            let mut octet = [0];
            file.read_at(&mut octet, place).unwrap();
            file.write_at(&[octet[0] ^ 0x20], place).unwrap();
            let volumes = volumes(&disk);
            let content = record_of(&placed, body.len());
            let read = volumes.read(&content, account(), CONTENT);
            assert!(matches!(read, Err(VolumeError::Damaged { .. })), "{way:?} {at}");
            let verified = volumes.verify(placed.locator, account(), CONTENT);
            assert!(matches!(verified, Err(VolumeError::Damaged { .. })), "{way:?} {at}");
            file.write_at(&octet, place).unwrap();
        }
        assert_reads(&volumes(&disk), &placed, &body, &[]);
    }
}

#[test]
fn a_volume_reads_its_messages_with_either_copy_of_its_dictionary() {
    let disk = SimDisk::new(1);
    let placed = store(&volumes(&disk), Way::WithDictionary, &mail(4));
    let record = volumes(&disk).header_at(&volumes(&disk).volume(1).unwrap(), FILE_HEADER).unwrap();
    assert_eq!(record.kind, RecordKind::Dictionary);
    let second = aligned(FILE_HEADER + RECORD_HEADER + record.stored);
    let file = disk.files().open(&name(1)).unwrap();
    let flip = |at: u64| {
        let mut octet = [0];
        file.read_at(&mut octet, at).unwrap();
        file.write_at(&[octet[0] ^ 1], at).unwrap();
    };
    let body = mail(4);
    for (first, other) in [(FILE_HEADER + 3, second + 3), (FILE_HEADER + 500, second + 500)] {
        flip(first);
        assert_reads(&volumes(&disk), &placed, &body, &[(3, 7)]);
        flip(other);
        let volumes = volumes(&disk);
        for error in [
            volumes.read(&record_of(&placed, body.len()), account(), CONTENT).err().unwrap(),
            volumes.verify(placed.locator, account(), CONTENT).err().unwrap(),
        ] {
            assert!(error.to_string().contains("the dictionary of its volume is damaged"), "{error}");
        }
        flip(first);
        assert_reads(&self::volumes(&disk), &placed, &body, &[(3, 7)]);
        flip(other);
    }
}

#[test]
fn what_a_failed_sync_left_at_the_beginning_is_made_durable_by_who_goes_on() {
    for (way, seed) in
        [Way::Arrived, Way::WithDictionary].into_iter().flat_map(|way| (0..12).map(move |n| (way, n)))
    {
        let disk = SimDisk::new(seed);
        let lost = store(&volumes(&disk), way, &mail(1));
        disk.fail_nth(OpKind::Sync, 1, Fault::Io);
        assert!(lost.volume.sync(&disk.files()).is_err());
        disk.process_crash();
        let again = volumes(&disk);
        let next = store(&again, way, &mail(2));
        assert_eq!(next.locator.volume, lost.locator.volume);
        next.volume.sync(&disk.files()).unwrap();
        disk.power_loss();
        let last = volumes(&disk);
        assert!(last.purpose(next.locator.volume).unwrap().is_some(), "{seed}");
        assert_reads(&last, &next, &mail(2), &[]);
    }
}

#[test]
fn writing_goes_on_in_both_volumes_after_a_restart() {
    let disk = SimDisk::new(1);
    let first = store(&volumes(&disk), Way::Arrived, &mail(1));
    let packed = store(&volumes(&disk), Way::WithDictionary, &mail(2));
    let large = store(&volumes(&disk), Way::PackedLarge, &vec![b'x'; 600_000]);
    let again = volumes(&disk);
    assert!(again.is_in_use(first.locator.volume) && again.is_in_use(packed.locator.volume));
    assert!(!again.is_in_use(large.locator.volume));
    let (next, next_packed) = (store(&again, Way::Arrived, &mail(3)), store(&again, Way::Packed, &mail(4)));
    assert_eq!(next.locator.volume, first.locator.volume);
    assert_eq!(next_packed.locator.volume, packed.locator.volume);
    let coding = again.record(next_packed.locator, account(), CONTENT).unwrap().header.coding;
    assert!(matches!(coding, Coding::WithDictionary(_)), "with the dictionary that is there");
    assert_reads(&again, &next_packed, &mail(4), &[]);
    // A volume that is gone is not written to.
    let third = volumes(&disk);
    third.remove(first.locator.volume).unwrap();
    assert_ne!(store(&third, Way::Arrived, &mail(5)).locator.volume, first.locator.volume);
}

#[test]
fn marks_say_which_group_and_how_far_back() {
    for back in [None, Some(Locator { volume: 7, offset: 134_217_720 })] {
        let mark = Mark { group: u64::MAX - 5, back };
        assert_eq!(Mark::decode(mark.encode()), mark);
    }
}

//! Messages: however they stream by, the same is found; every section lies within the message; everything that is
//! computed from one ends.

use rookery_mime::{
    Limits, MessageFacts, Needle, Scanner, SearchScope, SectionPath, SectionText, SortKeys, Structure,
    TransferDecoder, TransferEncoding, header,
};

fn scan(limits: &Limits, message: &[u8], step: usize) -> rookery_mime::Scanned {
    let mut scanner = Scanner::new(limits.clone());
    message.chunks(step).for_each(|piece| scanner.push(piece));
    scanner.finish()
}

pub fn mime(data: &[u8]) {
    let [step, bits, message @ ..] = data else { return };
    let step = usize::from(*step) + 1;
    let limits = match bits & 1 {
        0 => Limits::default(),
        _ => {
            Limits { nesting: 3, parts: 5, header_octets: 200, part_header_octets: 100, ..Limits::default() }
        }
    };
    let whole = scan(&limits, message, message.len().max(1));
    let pieces = scan(&limits, message, step);
    assert_eq!(whole.structure(), pieces.structure(), "cut into pieces of {step}");
    assert_eq!(whole.bodystructure(), pieces.bodystructure());
    assert_eq!(whole.envelope(), pieces.envelope());
    assert_eq!((whole.octets(), whole.lines()), (pieces.octets(), pieces.lines()));
    assert_eq!(whole.octets(), message.len() as u64);
    let structure = whole.structure();
    assert_eq!(Structure::decode(&structure.encode()).as_ref(), Ok(structure));
    let texts = [SectionText::Whole, SectionText::Header, SectionText::Text, SectionText::Mime];
    for part in (0..4u32).flat_map(|first| (0..4u32).map(move |second| [first, second])) {
        for text in texts {
            let path: Vec<u32> = part.into_iter().take_while(|number| *number > 0).collect();
            if let Some(range) = structure.section(&SectionPath::new(path, text)) {
                assert!(range.start <= range.end && range.end <= message.len() as u64, "{range:?}");
            }
        }
    }
    let read = |range: std::ops::Range<u64>| {
        let at = |place: u64| usize::try_from(place).expect("within the message");
        Ok::<_, ()>(message[at(range.start)..at(range.end)].to_vec())
    };
    let preview = rookery_mime::preview(structure, read).expect("it can be read");
    assert!(preview.chars().count() <= 256);
    let _ = whole.facts();
    let envelope = whole.envelope();
    let _ = SortKeys::of_envelope(&envelope, &[]);
    let needle = Needle::new("needle");
    for scope in
        [SearchScope::Text, SearchScope::Body, SearchScope::Header("Subject"), SearchScope::Addresses("From")]
    {
        let _ = rookery_mime::search_text(message, structure, &needle, scope);
    }
}

pub fn headers(data: &[u8]) {
    for field in header::fields(data) {
        let _ = field.text();
    }
    let unfolded = header::unfold(data);
    assert!(unfolded.len() <= data.len());
    let words = rookery_mime::decode_words(data);
    let subject = rookery_mime::base_subject(&words);
    let _ = format!("{subject:?}");
    let _ = rookery_mime::collation_key(&words);
    let _ = MessageFacts::read(data);
    let names: [&[u8]; 2] = [b"Subject", b"To"];
    let with = rookery_mime::filter_header(data, &names, false);
    let without = rookery_mime::filter_header(data, &names, true);
    // Each line end may become CRLF, a last line may get one, and an empty line ends it all.
    assert!(with.len() <= 2 * data.len() + 4 && without.len() <= 2 * data.len() + 4);
    let _ = SortKeys::of_envelope(data, &[words]);
    let _ = Structure::decode(data);
}

pub fn transfer(data: &[u8]) {
    let [step, input @ ..] = data else { return };
    let step = usize::from(*step) % 16 + 1;
    for encoding in [TransferEncoding::Base64, TransferEncoding::QuotedPrintable, TransferEncoding::Identity]
    {
        let decode = |step: usize| {
            let (mut decoder, mut out) = (TransferDecoder::new(encoding), Vec::new());
            input.chunks(step).for_each(|piece| decoder.push(piece, &mut out));
            decoder.finish(&mut out);
            out
        };
        let whole = decode(input.len().max(1));
        assert_eq!(whole, decode(step), "{encoding:?} cut into pieces of {step}");
        assert!(whole.len() <= input.len());
    }
    let _ = TransferEncoding::of_header(input);
}

//! Verifiers made by the tools that administrators have: `openssl passwd` (OpenSSL 3.0), `mkpasswd` (whois 5.5),
//! `doveadm pw` (Dovecot 2.3.19), all of Debian 12.

use super::*;

fn verify(verifier: &str, password: &[u8]) -> Checked {
    super::verify(verifier, password, &mut Scratch::new())
}

const PASSWORD: &[u8] = b"correct horse";

const OPENSSL: [&str; 3] = [
    "$1$saltsalt$NuzA7WTAelpl95xgBGWN60",
    "$5$saltsalt$myjXcpMpE2Ofk7fj9hqyNYSn6lmWG4Mqnjx.KIRRr4/",
    "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0",
];

const MKPASSWD: [&str; 8] = [
    "$1$8ufhtFrB$p.NbZTyM/F3nzusrik.220",
    "$5$ALg7NlZuPAqMPcX7$Tcw10W1ANp0eBTW8OAl6vUtwWgu.Bla9LQIJd/FQDYC",
    "$6$IeVP/qrcG1YNLw1s$wNXWwq35ZaKQX3IvW7etBTwms7G.SWGIQIVsB2cxHY6f/kRRhJWwBJxiRsDIpPyx3BGEx6GY3qX2a/TYLzLvm/",
    "$6$rounds=20000$acI884NMR9w0Fv2q$NYFPEs3K/zyUqjuwYMFgVEb.hgKC7Ltn7gbA2meL5fJz2Bm2rIlzHnQsDugewJuYe3lHGbZaJPFEGvedIzluM1",
    "$2b$05$RysuXNNYmvnSd2zC4.kQP.tdzP.pgiLH9vdCK69ISE2PtusoZ1NDq",
    "$2a$05$SDB67XIkGlnDPxMarPrVF.PLNKvX1gR5iDk.M/GzhDnpyfsLTns2i",
    "$y$j75$rWTcKjmXhyRjO2LcXDChv0$85j9Eg4IQwuUZpjEXy1V6q2PmuFIGEhxoc.6CmRw/R5",
    "$y$j9T$k.YTsljckRWas4lDN9BuE/$LqtNu7Mbq9IziqKbLPCNvz6c0Z8b8HUImY.AYo85F0/",
];

const DOVEADM: [&str; 20] = [
    "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=",
    "{SHA256}QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE=",
    "{SHA512}VraY3v7bWkNbY0r+MyC7rz/c2SC2xQOkRvx7endrKY1HnRumqLYXgI6wv1ec6aldZoNHvKtxSQhayTyyeZUZew==",
    "{SSHA}u0TBFZWgCyJusKBqmHOyIUTVCmaLBwEx",
    "{SSHA256}zNJ4QVs7sFRNGxsldqVzGmSfT+IP4viVB+n53bb5qqYG75Gt",
    "{SSHA512}6nk6Z7WgBwgcA1Td/gku+Ts96eb9e75uL4QTMCtRPWyyH0G2wX79X/bmBKV6zG1OZYjJV302YqTo2gvrUqlAi2e9a9s=",
    "{SMD5}/a8Fs/XUJz7D0A44iKC304rBNn4=",
    "{PLAIN-MD5}3cb4e732631f47e6eb961f34554b7cde",
    "{LDAP-MD5}PLTnMmMfR+brlh80VUt83g==",
    "{PLAIN}correct horse",
    "{PLAIN.B64}Y29ycmVjdCBob3JzZQ==",
    "{CRYPT}$2y$05$FUkxJyvddBKdkYAlUHZvQuS2z4Alp7HQ8TvqPU9dk3pgS5o1CUWqi",
    "{BLF-CRYPT}$2y$05$QQ1M7HKyYqm2QNbQcItbne5Gn/6xQ0DQC0xC15agA.66d/2u93lIG",
    "{SHA512-CRYPT}$6$vwDNO3VWlndLQDz.$VuHyzryyj9kWQiHFD5CwitMoWwEN90dEEqmmroMY1EHk4hQGmmOVX7HwX.sk4lzBAFZpG6kwpZ0h/Sqr/Camo.",
    "{SHA256-CRYPT}$5$xp30zt0CNocjDUWp$UNR5Qf3GUZGi0zwU/w04oeX.ChUa1gHAkRsOO6QhOx7",
    "{MD5-CRYPT}$1$Bv8/bc4Y$0QtNCu1ESQiLTxuJl4mX00",
    "{PBKDF2}$1$4FvgbsraBbnd3Lpq$5000$6d75e9c6787395ce6ce875c870ad14f525731482",
    "{SCRAM-SHA-256}4096,TB4KHUugybbWqSDcnBSXDA==,wpDpG0l4UMU6uLrDUEFtmYixorLQxlLBN0Vki88r/SU=,Bo1jaMOt01AWYbvguPNnw+P+6m6+ZKKGQkexzELL/AM=",
    "{SHA256.HEX}4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631",
    "{SSHA.HEX}09acbdbd9bec68a772883e0a0f9bbdae1ea8227c9b05dbe2",
];

#[test]
fn what_real_tools_make_fits_its_password_alone() {
    for verifier in OPENSSL.iter().chain(&MKPASSWD).chain(&DOVEADM) {
        assert_eq!(verify(verifier, PASSWORD), Ok(true), "{verifier}");
        assert!(is_supported(verifier), "{verifier}");
        for wrong in [&b"correct horsf"[..], b"", b"correct hors", b"correct horse "] {
            assert_eq!(verify(verifier, wrong), Ok(false), "{verifier}");
        }
    }
    // doveadm pw -s ARGON2ID; openssl passwd -1. Passwords of other lengths and alphabets.
    let argon2 = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$QBSm0OvwhxedSZyNOCirZQ$j8khQAl4RRjt0UP6AZz9JK68hDufE1MjxKRvjJP8KtM";
    assert_eq!(verify(argon2, "pässwort".as_bytes()), Ok(true));
    let long = "pässwort langes Passwort mit vielen Zeichen";
    assert_eq!(verify("$1$x$.eho3yX7u3iUnhtNAkwJ/.", long.as_bytes()), Ok(true));
}

#[test]
fn what_is_not_understood_or_costs_too_much_is_refused() {
    for bad in [
        // mkpasswd -m descrypt, scrypt, gost-yescrypt.
        "x5kiccJaLD4aU",
        "$7$CU..../....nslRyADQkwqkwhj4b8QLz1$QcmLtlFsdBk2q1Z5UoSOTsPjJ430xyCJ15df868zVa4",
        "$gy$j9T$0CS96VxK2cRok3jh8790u0$ON7P0BFHrLcb1ZYkIyzBHMtw8yuubmWGd758Cnq4B91",
        "",
        "!",
        "*",
        "x",
        "{CRYPT}",
        "{CRYPT}!",
        "{NTLM}8846f7eaee8fb117ad06bdd830b7586c",
        "{PLAIN",
        "{SHA256}AA==",
        "{SHA256}QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE",
        "{SSHA}L55TUjtiq8FBorTWAZ0jy6g129A=",
        "{SHA.ROT13}L55TUjtiq8FBorTWAZ0jy6g129A=",
        "{PBKDF2}$1$salt$4000000000$6d75e9c6787395ce6ce875c870ad14f525731482",
        "{PBKDF2}$1$salt$5000$6d75",
        "{SCRAM-SHA-256}4096,TB4KHUugybbWqSDcnBSXDA==",
        "$1$saltsalt",
        "$1$saltsaltsalt$NuzA7WTAelpl95xgBGWN60",
        "$6$rounds=900000000$acI884NMR9w0Fv2q$NYFPEs3K",
        "$6$rounds=x$acI884NMR9w0Fv2q$NYFPEs3K",
        "$2b$31$RysuXNNYmvnSd2zC4.kQP.tdzP.pgiLH9vdCK69ISE2PtusoZ1NDq",
        "$2b$05$tooshort",
        "$y$jFT$k.YTsljckRWas4lDN9BuE/$LqtNu7Mbq9IziqKbLPCNvz6c0Z8b8HUImY.AYo85F0/",
        "$y$j9T/2$k.YTsljckRWas4lDN9BuE/$LqtNu7Mbq9IziqKbLPCNvz6c0Z8b8HUImY.AYo85F0/",
        "$argon2i$v=19$m=16,t=1,p=1$MTIzNDU2Nzg$MTIzNDU2Nzg5MDEyMzQ1Ng",
        "$argon2id$v=19$m=16,t=1,p=1",
        "$argon2id$v=19$m=4000000,t=1,p=1$MTIzNDU2Nzg$MTIzNDU2Nzg5MDEyMzQ1Ng",
        "$argon2id$v=19$m=16,t=4000000,p=1$MTIzNDU2Nzg$MTIzNDU2Nzg5MDEyMzQ1Ng",
    ] {
        let answer = verify(bad, PASSWORD);
        assert!(matches!(answer, Err(HashError::BadVerifier(_))), "{bad:?} {answer:?}");
        assert!(verify(bad, &[b'x'; 5000]).is_err());
    }
}

#[test]
fn unsupported_schemes_are_told_beforehand() {
    for bad in
        ["", "!", "x5kiccJaLD4aU", "$7$CU", "$gy$j9T", "{CRYPT}x5kiccJaLD4aU", "{NTLM}x", "{}", "plain"]
    {
        assert!(!is_supported(bad), "{bad}");
    }
    assert!(is_supported("{ssha256.hex}x") && is_supported("{Plain}$y"));
}

#[test]
fn memory_is_known_beforehand() {
    assert_eq!(
        memory_kib("$argon2id$v=19$m=65536,t=3,p=1$QBSm0OvwhxedSZyNOCirZQ$j8khQAl4RRjt0UP6AZz9JA"),
        65536
    );
    assert_eq!(
        memory_kib(
            "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$QBSm0OvwhxedSZyNOCirZQ$j8khQAl4RRjt0UP6AZz9JA\nx"
        ),
        19456
    );
    assert_eq!(memory_kib(MKPASSWD[7]), 16 * 1024);
    assert_eq!(memory_kib(&format!("{{CRYPT}}{}", MKPASSWD[6])), 1024);
    for cheap in ["", "{PLAIN}$y", "$6$", DOVEADM[0]] {
        assert_eq!(memory_kib(cheap), 0);
    }
}

#[test]
fn scram_keys_stand_beside_the_hash() {
    let both = with_scram(OPENSSL[0].to_owned(), PASSWORD, 4096);
    assert_eq!(verify(&both, PASSWORD), Ok(true));
    assert!(scram_keys(&both).unwrap().fit(PASSWORD));
    assert_eq!(with_scram("x".to_owned(), PASSWORD, 0), "x");
    assert!(scram_keys(OPENSSL[0]).is_none());
    assert!(scram_keys(DOVEADM[17]).unwrap().fit(PASSWORD));
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(
        scheme in proptest::sample::select(vec!["", "{CRYPT}", "{SHA}", "{SSHA.HEX}", "{PBKDF2}$1$", "$1$", "$6$", "$2b$0", "$y$", "$argon2id$", "{SCRAM-SHA-256}"]),
        text in "[a-zA-Z0-9$./,={}\\PC]{0,60}",
    ) {
        let verifier = format!("{scheme}{text}");
        // Costs are looked at only.
        let _ = memory_kib(&verifier);
        let _ = scram_keys(&verifier);
        if !verifier.contains("$y$") {
            let _ = verify(&verifier, b"");
        }
    }
}

//! Random patterns of CPython's grammar, and paths that have a chance to match them.

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded and good enough for tests.
pub(crate) struct Generator {
    state: u64,
    groups: usize,
}

const LETTERS: &[&str] = &[
    "a", "b", "/", "A", "_", "1", " ", "\n", "é", "ſ", "k", "K", "\u{212a}", "ß", "İ", "i", "ı",
    "٣", "\u{345}", "µ", "😀", "-", ".",
];
const ESCAPES: &[&str] = &[
    r"\d",
    r"\D",
    r"\s",
    r"\S",
    r"\w",
    r"\W",
    r"\b",
    r"\B",
    r"\A",
    r"\Z",
    r"\n",
    r"\t",
    r"\.",
    r"\/",
    r"\-",
    r"\x61",
    r"\u00e9",
    r"\U0001f600",
    r"\101",
    r"\0",
    r"\07",
    r"\141",
    r"\377",
    r"\400",
    r"\8",
    r"\q",
    r"\z",
    r"\<",
    r"\ ",
    r"\a",
    r"\é",
    r"\x6",
    r"\N{DIGIT ONE}",
    "\\\n",
];
const SPECIAL: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "*",
    "+",
    "?",
    "|",
    "^",
    "$",
    ".",
    "\\",
    "#",
    "-",
    ",",
    ":",
    "=",
    "!",
    "<",
    ">",
    "P",
    "(?",
    "(?:",
    "(?i)",
    "(?x)",
    "(?s:",
    "(?<=",
    "(?>",
    "{,2}",
    "{1,}",
    "[^",
    "[[:alpha:]]",
    "&&",
    "--",
    "||",
    "~~",
    "i",
    "m",
    "s",
    "x",
    "a",
    "u",
    "1",
    "0",
    "2",
];
const FLAGS: &[&str] = &[
    "i", "m", "s", "x", "a", "u", "i-s", "-i", "im", "ia", "s-x", "t", "L",
];

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            groups: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// One pattern and some paths.
    pub(crate) fn case(&mut self) -> (String, Vec<String>) {
        self.groups = 0;
        let mut pattern = String::new();
        if self.chance(15) {
            for _ in 0..=self.below(12) {
                let piece = if self.chance(60) {
                    self.pick(SPECIAL)
                } else if self.chance(30) {
                    self.pick(ESCAPES)
                } else {
                    self.pick(LETTERS)
                };
                pattern.push_str(piece);
            }
        } else {
            if self.chance(20) {
                let flags = self.pick(&FLAGS[..6]);
                pattern.push_str(&format!("(?{flags})"));
            }
            self.alternation(3, &mut pattern);
            if self.chance(10) {
                self.damage(&mut pattern);
            }
        }
        let count = 4 + self.below(8);
        let mut paths = vec![String::new()];
        paths.extend((0..count).map(|_| self.path(&pattern)));
        (pattern, paths)
    }

    /// Changes, drops or repeats one character.
    fn damage(&mut self, pattern: &mut String) {
        let mut characters: Vec<char> = pattern.chars().collect();
        if characters.is_empty() {
            return;
        }
        let at = self.below(characters.len());
        match self.below(3) {
            0 => drop(characters.remove(at)),
            1 => characters.insert(at, characters[at]),
            _ => characters.extend(self.pick(SPECIAL).chars()),
        }
        *pattern = characters.into_iter().collect();
    }

    fn path(&mut self, pattern: &str) -> String {
        let mut path = String::new();
        let length = self.below(9);
        let from_pattern: Vec<char> = pattern
            .chars()
            .filter(|c| !"()[]{}*+?|^$".contains(*c))
            .collect();
        let derived = self.chance(60) && !from_pattern.is_empty();
        for _ in 0..length {
            if derived && self.chance(60) {
                path.push(from_pattern[self.below(from_pattern.len())]);
            } else if self.chance(70) {
                path.push_str(self.pick(&LETTERS[..4]));
            } else {
                path.push_str(self.pick(LETTERS));
            }
        }
        if self.chance(15) {
            path.push('\n');
        }
        path
    }

    fn alternation(&mut self, depth: usize, out: &mut String) {
        self.sequence(depth, out);
        while self.chance(25) {
            out.push('|');
            self.sequence(depth, out);
        }
    }

    fn sequence(&mut self, depth: usize, out: &mut String) {
        for _ in 0..self.below(4) {
            self.piece(depth, out);
            if self.chance(35) {
                self.quantifier(out);
            }
        }
    }

    fn quantifier(&mut self, out: &mut String) {
        let (low, high) = (self.below(4), self.below(4));
        match self.below(12) {
            0..3 => out.push('*'),
            3..5 => out.push('+'),
            5..7 => out.push('?'),
            7 => out.push_str(&format!("{{{low}}}")),
            8 => out.push_str(&format!("{{{low},}}")),
            9 => out.push_str(&format!("{{,{high}}}")),
            10 => out.push_str(&format!("{{{low},{}}}", low + high)),
            _ => out.push_str(self.pick(&["{", "{}", "{1", "{,}", "{a}", "{2,1}", "{1,2"])),
        }
        match self.below(8) {
            0 => out.push('?'),
            1 => out.push('+'),
            _ => {}
        }
    }

    fn piece(&mut self, depth: usize, out: &mut String) {
        let kinds = if depth == 0 { 60 } else { 100 };
        match self.below(kinds) {
            0..22 => out.push_str(self.pick(&LETTERS[..4])),
            22..30 => out.push_str(self.pick(LETTERS)),
            30..36 => out.push('.'),
            36..42 => out.push_str(self.pick(ESCAPES)),
            42..46 => out.push_str(self.pick(&["^", "$", r"\b", r"\B", r"\A", r"\Z"])),
            46..55 => self.class(out),
            55..58 => self.back_reference(out),
            58 => out.push_str("(?#note)"),
            59 => out.push_str(self.pick(&["]", "}", "{", ":", "#", " "])),
            60..70 => {
                self.groups += 1;
                self.wrapped("(", depth, out);
            }
            70..76 => self.wrapped("(?:", depth, out),
            76..79 => self.wrapped("(?=", depth, out),
            79..82 => self.wrapped("(?!", depth, out),
            82..85 => self.wrapped("(?<=", depth.min(1), out),
            85..88 => self.wrapped("(?<!", depth.min(1), out),
            88..91 => self.wrapped("(?>", depth, out),
            91..94 => {
                let flags = self.pick(FLAGS);
                self.wrapped(&format!("(?{flags}:"), depth, out);
            }
            94..96 => {
                self.groups += 1;
                let number = self.groups;
                self.wrapped(&format!("(?P<g{number}>"), depth, out);
            }
            _ => self.conditional(depth, out),
        }
    }

    fn wrapped(&mut self, open: &str, depth: usize, out: &mut String) {
        out.push_str(open);
        self.alternation(depth.saturating_sub(1), out);
        out.push(')');
    }

    fn back_reference(&mut self, out: &mut String) {
        let number = 1 + self.below(self.groups + 1);
        if self.chance(80) {
            out.push_str(&format!("\\{number}"));
        } else {
            out.push_str(&format!("(?P=g{number})"));
        }
    }

    fn conditional(&mut self, depth: usize, out: &mut String) {
        let number = 1 + self.below(self.groups + 1);
        let name = if self.chance(15) { "g" } else { "" };
        out.push_str(&format!("(?({name}{number})"));
        self.sequence(depth.saturating_sub(1), out);
        if self.chance(60) {
            out.push('|');
            self.sequence(depth.saturating_sub(1), out);
        }
        out.push(')');
    }

    fn class(&mut self, out: &mut String) {
        out.push('[');
        if self.chance(30) {
            out.push('^');
        }
        for _ in 0..=self.below(4) {
            match self.below(10) {
                0..4 => out.push_str(self.pick(LETTERS)),
                4..6 => {
                    let ranges = [
                        "a-z",
                        "A-Z",
                        "a-b",
                        "/-9",
                        "À-ÿ",
                        "ſ-K",
                        "\u{0}-\u{10ffff}",
                        "!-~",
                        "Α-ω",
                    ];
                    out.push_str(self.pick(&ranges));
                }
                6..8 => out.push_str(self.pick(ESCAPES)),
                8 => out.push_str(self.pick(&[
                    "[:alpha:]",
                    "&&",
                    "--",
                    "a-",
                    "-a",
                    "]",
                    "||",
                    "~~b",
                ])),
                _ => {
                    let (low, high) = (self.pick(LETTERS), self.pick(LETTERS));
                    out.push_str(&format!("{low}-{high}"));
                }
            }
        }
        out.push(']');
    }
}

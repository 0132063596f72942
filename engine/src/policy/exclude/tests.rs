use super::{Engine, Match, Pattern, PatternError};

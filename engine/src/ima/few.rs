//! A list that rarely has more than one element: the first one needs no memory of its own.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Elements in the order in which they came.
#[derive(Clone)]
pub(super) enum Few<T> {
    /// Exactly one.
    One([T; 1]),
    /// None, or several.
    Others(Vec<T>),
}

impl<T> Few<T> {
    pub(super) const fn new() -> Self {
        Self::Others(Vec::new())
    }

    pub(super) fn push(&mut self, element: T) {
        *self = match std::mem::replace(self, Self::new()) {
            Self::One([first]) => Self::Others(vec![first, element]),
            Self::Others(none) if none.is_empty() => Self::One([element]),
            Self::Others(mut elements) => {
                elements.push(element);
                Self::Others(elements)
            }
        };
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Others(elements) => elements,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => one,
            Self::Others(elements) => elements,
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut few = Self::new();
        elements.into_iter().for_each(|element| few.push(element));
        few
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T: fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// As a `Vec` is.
impl<T: Serialize> Serialize for Few<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let elements = Vec::<T>::deserialize(deserializer)?;
        Ok(elements.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_list_of_what_was_pushed() {
        let mut few = Few::new();
        let mut expected = Vec::new();
        for number in 0..5 {
            assert_eq!(*few, *expected);
            assert_eq!(format!("{few:?}"), format!("{expected:?}"));
            let text = serde_json::to_string(&few).unwrap();
            assert_eq!(text, serde_json::to_string(&expected).unwrap());
            assert_eq!(serde_json::from_str::<Few<i32>>(&text).unwrap(), few);
            few.push(number);
            expected.push(number);
        }
        few.iter_mut().for_each(|number| *number += 1);
        assert_eq!(few.to_vec(), [1, 2, 3, 4, 5]);
    }
}

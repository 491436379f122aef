//! RootlessKit: what the installed one can, and the arguments it gets.

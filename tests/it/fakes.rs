//! The fakes themselves: they refuse what the real services refuse.

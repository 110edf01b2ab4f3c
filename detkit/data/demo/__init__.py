"""The labelled folder that `detkit demo` draws."""

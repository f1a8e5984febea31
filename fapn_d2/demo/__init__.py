"""The quick start: two networks that differ by the neck, and a page that shows them."""

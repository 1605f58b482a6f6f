"""Tables, figures, pages and claims."""

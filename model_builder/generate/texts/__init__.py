"""Public-domain texts: ``perplexity.txt`` measures, ``calibration.txt`` calibrates.

`perplexity`: the beginning of Lewis Carroll, "Alice's Adventures in Wonderland" (1865).
`calibration`: parts of the proceedings of the "Workshop on Electronic Texts" of the Library of
Congress (1992, a work of the United States government), of Shakespeare, "As You Like It", and
of Milton, "Paradise Lost". All from the Canterbury corpus, as the sources of the `brotli`
package ship it.

Not here: code, and text that is not in the public domain.
"""

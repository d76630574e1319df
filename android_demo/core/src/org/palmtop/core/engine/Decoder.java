package org.palmtop.core.engine;

/** One native generator and the arrays it reads. */
interface Decoder {
    DecoderInputs inputs();

    /** Tokens in the KV cache. */
    int tokenCount();

    /** Run the graph over more tokens. */
    void append(int[] ids);

    /** Logits of the last token, [V]. */
    float[] logits();

    /** Forget all but the first tokens. */
    void rewindTo(int count);

    void close();
}

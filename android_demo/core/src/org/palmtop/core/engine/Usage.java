package org.palmtop.core.engine;

/** Token counts and timings of an answer. */
public final class Usage {
    /** Tokens of the prompt, media rows counted. */
    public final int promptTokens;
    /** Tokens of the prompt that were in the KV cache already. */
    public final int cachedTokens;
    /** Tokens of the prompt that are feature rows of images or sounds. */
    public final int mediaRows;
    /** Tokens sampled, the end token not counted. */
    public final int completionTokens;
    /** "adapters" or "rope" when the cache was thrown away and read again for that reason; else null. */
    public final String reprefilled;
    /** From the call to the first token: media, prefill and one step. */
    public final double ttftSeconds;
    /** After the first token; 0 with fewer than two. */
    public final double tokensPerSecond;

    public Usage(
            int promptTokens,
            int cachedTokens,
            int mediaRows,
            int completionTokens,
            String reprefilled,
            double ttftSeconds,
            double tokensPerSecond) {
        this.promptTokens = promptTokens;
        this.cachedTokens = cachedTokens;
        this.mediaRows = mediaRows;
        this.completionTokens = completionTokens;
        this.reprefilled = reprefilled;
        this.ttftSeconds = ttftSeconds;
        this.tokensPerSecond = tokensPerSecond;
    }
}

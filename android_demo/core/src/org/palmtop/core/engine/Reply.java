package org.palmtop.core.engine;

import java.util.Map;

/** A whole answer. */
public final class Reply {
    /** Reason why an answer ended; {@code label} is the Python runtime's name. */
    public enum FinishReason {
        EOS("eos"),
        STOP_STRING("stop_string"),
        MAX_TOKENS("max_tokens"),
        CONTEXT_FULL("context_full"),
        CANCELLED("cancelled");

        public final String label;

        FinishReason(String label) {
            this.label = label;
        }
    }

    /** Text as streamed, without the stop string. */
    public final String text;
    /** Sampled ids, without the end token. */
    public final int[] tokenIds;
    public final FinishReason finishReason;
    /** "text", "image", "audio" or "image+audio": what the conversation holds so far. */
    public final String mode;
    /** Name to weight of the adapters that were on. */
    public final Map<String, Double> adapters;
    public final Usage usage;

    public Reply(
            String text,
            int[] tokenIds,
            FinishReason finishReason,
            String mode,
            Map<String, Double> adapters,
            Usage usage) {
        this.text = text;
        this.tokenIds = tokenIds;
        this.finishReason = finishReason;
        this.mode = mode;
        this.adapters = adapters;
        this.usage = usage;
    }
}

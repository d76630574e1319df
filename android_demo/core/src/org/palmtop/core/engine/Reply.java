package org.palmtop.core.engine;

import java.util.Map;

/** A whole answer. */
public final class Reply {
    /** Why it ended; {@code label} is the Python runtime's word. */
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

    /** As streamed, without the stop string. */
    public final String text;
    /** What was sampled, the end token left out. */
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

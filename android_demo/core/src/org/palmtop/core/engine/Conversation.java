package org.palmtop.core.engine;

import java.util.List;
import java.util.Map;

/** The decoder and what it has read. Every turn is given whole; what it shares with the last one is not read again. */
public final class Conversation implements AutoCloseable {
    Conversation() {}

    /**
     * Answer a list of messages, the last one the user's. Blocks; call it on a worker thread.
     *
     * @param adapters name to weight instead of the route's; empty for none; null lets the route decide.
     */
    public Reply respond(
            List<Message> messages, Map<String, Double> adapters, GenerationOptions options, AnswerListener listener) {
        throw new UnsupportedOperationException();
    }

    /** Stop the answer that is being given, between two tokens or two steps of reading; from any thread. */
    public void cancel() {}

    /** Free the KV cache. */
    @Override
    public void close() {}
}

package org.palmtop.core.engine;

import org.palmtop.core.bundle.PalmtopBundle;

/** A bundle in memory, ready to answer. Owns the native model; use it from one worker thread. */
public final class ChatEngine implements AutoCloseable {
    /** Plan the memory, load the model. Takes seconds: call it on a worker thread. */
    public static ChatEngine load(PalmtopBundle bundle, EngineOptions options) {
        throw new UnsupportedOperationException();
    }

    /** What is allocated; {@code plan().context} is the tokens a conversation may hold. */
    public MemoryPlan plan() {
        throw new UnsupportedOperationException();
    }

    /** A new dialogue; its KV cache is allocated when it first reads something. One at a time is open. */
    public Conversation conversation() {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() {}
}

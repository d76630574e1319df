package org.palmtop.core.engine;

/** Options for loading a bundle. Setters return the object itself. */
public final class EngineOptions {
    Integer context;
    Integer mediaRows;
    Integer threads;
    long availableBytes = Long.MAX_VALUE;
    int prefillChunk = 128;

    /** Tokens a conversation may hold; null takes what the bundle serves, or what fits into memory. */
    public EngineOptions context(Integer value) {
        context = value;
        return this;
    }

    /** Rows of image and sound features a conversation may hold; null for as many as the context. */
    public EngineOptions mediaRows(Integer value) {
        mediaRows = value;
        return this;
    }

    /** Threads of the native libraries; null for their default. */
    public EngineOptions threads(Integer value) {
        threads = value;
        return this;
    }

    /** Available memory in bytes: on Android {@code ActivityManager.MemoryInfo.availMem - threshold}. */
    public EngineOptions availableBytes(long value) {
        availableBytes = value;
        return this;
    }

    /** Tokens read at a time; cancelling acts between two steps. */
    public EngineOptions prefillChunk(int value) {
        prefillChunk = value;
        return this;
    }
}

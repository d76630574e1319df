package org.palmtop.core.engine;

/** Told how an answer comes along; called on the thread that asked. */
public interface AnswerListener {
    /** What takes time before the first token. */
    enum Stage { SEEING, LISTENING, READING }

    /** Text that was not shown before: whole characters, nothing of a stop string. */
    void onPiece(String text);

    /** {@code done} of {@code total} tiles batches, windows, or tokens of the prompt. */
    void onProgress(Stage stage, int done, int total);
}

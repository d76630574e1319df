package org.palmtop.core.engine;

/** Listener for the progress of an answer, called on the thread of the call. */
public interface AnswerListener {
    /** Step before the first token. */
    enum Stage { SEEING, LISTENING, READING }

    /** Text that was not shown before: whole characters, nothing of a stop string. */
    void onPiece(String text);

    /** {@code done} of {@code total} tiles batches, windows, or tokens of the prompt. */
    void onProgress(Stage stage, int done, int total);
}

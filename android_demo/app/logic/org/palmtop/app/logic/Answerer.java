package org.palmtop.app.logic;

import java.io.File;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.BundleProgress;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.engine.AnswerListener;
import org.palmtop.core.engine.GenerationOptions;
import org.palmtop.core.engine.Message;
import org.palmtop.core.engine.Reply;

/** Interface between the app and the engine: a model folder is opened, used and closed, on one worker thread. */
public interface Answerer {
    /** Check and load a model; replaces the one that was open. Blocks. */
    void open(File folder, BundleProgress checked);

    /** Manifest of the open model; null when none is open. */
    Manifest manifest();

    /** Tokens that a conversation may hold; 0 when no model is open. */
    int contextTokens();

    /** Answer the last message. Blocks. */
    Reply answer(
            List<Message> messages, Map<String, Double> adapters, GenerationOptions options, AnswerListener listener);

    /** Stop the answer that is being given; from any thread. */
    void cancel();

    /** Free everything the model holds. */
    void close();
}

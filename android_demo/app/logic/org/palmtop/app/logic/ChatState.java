package org.palmtop.app.logic;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.palmtop.core.engine.AnswerListener;

/** State of the chat screen besides the messages, at one moment. */
public final class ChatState {
    public enum Phase {
        /** No model was chosen, or it could not be opened: then {@code trouble} says why. */
        NO_MODEL,
        /** A model is being checked and loaded. */
        OPENING,
        /** Given back to the phone while the app was in the background; opened again when it is needed. */
        ASLEEP,
        READY,
        /** Pictures, sounds and text are being read, before the first word. */
        READING,
        WRITING,
        STOPPING,
        /** The benchmark has the engine. */
        MEASURING
    }

    public final Phase phase;
    /** The model's name for people; "" without one. */
    public final String model;
    /** 0..1 of what OPENING or READING have done. */
    public final double progress;
    /** Current step of READING, else null. */
    public final AnswerListener.Stage stage;
    public final Trouble trouble;
    public final String detail;
    /** Attached to the message that is being typed. */
    public final List<Attachment> attached;
    /** Whether the open model takes them together with what the chat holds. */
    public final boolean takesImages;
    public final boolean takesAudio;
    public final List<String> adapters;

    ChatState(
            Phase phase,
            String model,
            double progress,
            AnswerListener.Stage stage,
            Trouble trouble,
            String detail,
            List<Attachment> attached,
            boolean takesImages,
            boolean takesAudio,
            List<String> adapters) {
        this.phase = phase;
        this.model = model;
        this.progress = progress;
        this.stage = stage;
        this.trouble = trouble;
        this.detail = detail;
        this.attached = Collections.unmodifiableList(new ArrayList<Attachment>(attached));
        this.takesImages = takesImages;
        this.takesAudio = takesAudio;
        this.adapters = Collections.unmodifiableList(new ArrayList<String>(adapters));
    }

    /** Whether a message can be sent now; without a model it cannot. */
    public boolean canSend() {
        return phase == Phase.READY;
    }

    /** Whether an answer can be stopped now. */
    public boolean canStop() {
        return isAnswering() && phase != Phase.STOPPING;
    }

    /** The screen stays on, and nothing but stop can be pressed. */
    public boolean isBusy() {
        return phase == Phase.OPENING || isAnswering() || phase == Phase.MEASURING;
    }

    public boolean isAnswering() {
        return phase == Phase.READING || phase == Phase.WRITING || phase == Phase.STOPPING;
    }
}

package org.palmtop.app;

import android.content.Context;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.ChatState;
import org.palmtop.app.logic.Settings;
import org.palmtop.app.logic.Sizes;
import org.palmtop.app.logic.Trouble;
import org.palmtop.core.engine.AnswerListener;

/** The words of strings.xml for what the state machines say. */
final class Words {
    private Words() {}

    static int of(Trouble trouble) {
        switch (trouble) {
            case MODEL_DAMAGED:
                return R.string.trouble_model_damaged;
            case MODEL_TOO_NEW:
                return R.string.trouble_model_too_new;
            case MODEL_MISSING:
                return R.string.trouble_model_missing;
            case CANNOT_ANSWER:
                return R.string.trouble_cannot_answer;
            case MEMORY:
                return R.string.trouble_memory;
            case STORAGE_FULL:
                return R.string.trouble_storage_full;
            case UNREADABLE:
                return R.string.trouble_unreadable;
            case PHOTO_TOO_LARGE:
                return R.string.trouble_photo_too_large;
            case RECORDING_FAILED:
                return R.string.trouble_recording_failed;
            case SOUND_TOO_LONG:
                return R.string.trouble_sound_too_long;
            case SOUND_UNSUPPORTED:
                return R.string.record_unsupported;
            case PICTURE_UNSUPPORTED:
                return R.string.picture_unsupported;
            default:
                return R.string.trouble_internal;
        }
    }

    /** The plain words, and below them the engine's own sentence. */
    static String of(Context context, Trouble trouble, String detail) {
        String words = context.getString(of(trouble));
        return detail == null || detail.isEmpty() ? words : words + "\n" + detail;
    }

    static int of(ChatState state) {
        switch (state.phase) {
            case NO_MODEL:
                return R.string.chat_no_model;
            case OPENING:
                return R.string.state_opening;
            case ASLEEP:
                return R.string.state_asleep;
            case READY:
                return R.string.state_ready;
            case READING:
                return state.stage == AnswerListener.Stage.SEEING
                        ? R.string.state_seeing
                        : state.stage == AnswerListener.Stage.LISTENING
                                ? R.string.state_listening
                                : R.string.state_reading;
            case WRITING:
                return R.string.state_writing;
            case STOPPING:
                return R.string.state_stopping;
            default:
                return R.string.state_measuring;
        }
    }

    static String of(Context context, Attachment attachment) {
        return attachment.kind == Attachment.Kind.IMAGE
                ? context.getString(R.string.picture, attachment.width, attachment.height)
                : context.getString(R.string.recording, Sizes.clock(attachment.seconds));
    }

    static String adapter(Context context, String adapter) {
        if (adapter.equals(Settings.ADAPTER_BY_INPUT)) {
            return context.getString(R.string.adapter_auto);
        }
        return adapter.equals(Settings.ADAPTER_NONE)
                ? context.getString(R.string.adapter_none)
                : context.getString(R.string.adapter_named, adapter);
    }

    static int mode(String mode) {
        switch (mode) {
            case "image":
                return R.string.mode_image;
            case "audio":
                return R.string.mode_audio;
            case "image+audio":
                return R.string.mode_image_audio;
            default:
                return R.string.mode_text;
        }
    }

    static String modes(Context context, List<String> modes) {
        List<String> words = new ArrayList<String>();
        for (String mode : modes) {
            words.add(context.getString(mode(mode)));
        }
        return join(words);
    }

    static String join(List<String> words) {
        StringBuilder text = new StringBuilder();
        for (String word : words) {
            text.append(text.length() > 0 ? ", " : "").append(word);
        }
        return text.toString();
    }
}

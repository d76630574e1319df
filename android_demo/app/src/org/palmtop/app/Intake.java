package org.palmtop.app;

import android.content.ContentResolver;
import android.net.Uri;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Example;
import org.palmtop.app.logic.MediaFolder;
import org.palmtop.app.logic.Trouble;
import org.palmtop.app.logic.Wav;

/** Makes files of the app's own from what was picked, and looks whether they can be used. Reads files: not for the main thread. */
final class Intake {
    private final PalmtopApp app;

    Intake(PalmtopApp app) {
        this.app = app;
    }

    /** Result of an intake: an attachment, or the reason for its absence. */
    static final class Result {
        final Attachment attachment;
        final Trouble trouble;
        final String detail;

        Result(Attachment attachment, Trouble trouble, String detail) {
            this.attachment = attachment;
            this.trouble = trouble;
            this.detail = detail;
        }
    }

    Result picture(Uri picked) {
        try (InputStream stream = open(picked)) {
            return look(copy(stream, "picture-" + System.nanoTime()));
        } catch (IOException error) {
            return failed(error);
        } catch (RuntimeException error) { // the other app took its permission back, or failed
            return failed(error);
        }
    }

    /** A photo that the camera app has written; an empty file when it was cancelled. */
    Result photo(File file) {
        try {
            return look(file);
        } catch (IOException error) {
            file.delete();
            return failed(error);
        }
    }

    Result sound(Uri picked) {
        File file = null;
        try (InputStream stream = open(picked)) {
            file = copy(stream, "sound-" + System.nanoTime() + ".wav");
            return new Result(Attachment.audio(file.getPath(), Wav.seconds(file)), null, "");
        } catch (IOException error) {
            return failed(error);
        } catch (RuntimeException error) {
            if (file != null) {
                file.delete();
            }
            return failed(error);
        }
    }

    /** An example's picture or sound, from the app's assets. */
    Attachment asset(String name) throws IOException {
        try (InputStream stream = app.getAssets().open("samples/" + name)) {
            File file = copy(stream, "example-" + System.nanoTime() + "-" + name);
            return name.endsWith(".wav") ? Attachment.audio(file.getPath(), Wav.seconds(file)) : Photo.look(file);
        }
    }

    List<Example> examples() throws IOException {
        try (InputStream stream = app.getAssets().open("samples/samples.json")) {
            return Example.read(stream);
        }
    }

    private Result look(File file) throws IOException {
        Attachment picture = Photo.look(file);
        if (Photo.isTooLarge(picture)) {
            file.delete();
            return new Result(null, Trouble.PHOTO_TOO_LARGE, picture.width + " × " + picture.height);
        }
        return new Result(picture, null, "");
    }

    private InputStream open(Uri picked) throws IOException {
        ContentResolver resolver = app.getContentResolver();
        InputStream stream = resolver.openInputStream(picked);
        if (stream == null) {
            throw new FileNotFoundException("the file is not there any more");
        }
        return stream;
    }

    private File copy(InputStream stream, String name) throws IOException {
        return MediaFolder.copy(stream, app.mediaFolder(), name, app.bytes(app.mediaFolder()));
    }

    private static Result failed(Exception error) {
        return new Result(null, Trouble.of(error), Trouble.detail(error));
    }
}

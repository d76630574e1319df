package org.palmtop.app;

import android.media.AudioFormat;
import android.media.AudioRecord;
import android.media.MediaRecorder;
import java.io.File;
import java.io.IOException;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Chat;
import org.palmtop.app.logic.Trouble;
import org.palmtop.app.logic.WavWriter;

/** Recorder of the microphone into a WAV file, on its own thread, until it is stopped or the limit is reached. */
final class Recorder {
    static final int RATE_HZ = 16000;
    /** Shorter is a slip of the finger. */
    private static final double SHORTEST_SECONDS = 0.3;
    private static final int BLOCK_SAMPLES = RATE_HZ / 10;

    /** Listener, called on the recording's thread. */
    interface Listener {
        void onSeconds(double seconds);

        /** {@code recording} is null when it was too short or failed; then {@code error} may say why. */
        void onEnd(Attachment recording, boolean isTaken, boolean isFull, Throwable error);
    }

    private final File folder;
    private final Chat chat;
    private volatile boolean isRunning;
    private volatile Listener listener;

    /** @param chat gets what was recorded, whether or not a screen is there to see it. */
    Recorder(File folder, Chat chat) {
        this.folder = folder;
        this.chat = chat;
    }

    boolean isRunning() {
        return isRunning;
    }

    /** Attach a recreated screen to the running recording. */
    void listen(Listener heard) {
        listener = heard;
    }

    void stop() {
        isRunning = false;
    }

    /** Needs the permission RECORD_AUDIO. */
    void start(final int limitSeconds) {
        if (isRunning) {
            return;
        }
        isRunning = true;
        new Thread("recorder") {
            @Override
            public void run() {
                record(limitSeconds);
            }
        }.start();
    }

    private void record(int limitSeconds) {
        File file = new File(folder, "sound-" + System.nanoTime() + ".wav");
        AudioRecord microphone = null;
        double seconds = 0;
        Throwable failure = null;
        try (WavWriter writer = new WavWriter(file, RATE_HZ)) {
            int least = AudioRecord.getMinBufferSize(
                    RATE_HZ, AudioFormat.CHANNEL_IN_MONO, AudioFormat.ENCODING_PCM_16BIT);
            microphone = new AudioRecord(
                    MediaRecorder.AudioSource.MIC,
                    RATE_HZ,
                    AudioFormat.CHANNEL_IN_MONO,
                    AudioFormat.ENCODING_PCM_16BIT,
                    Math.max(least, RATE_HZ * 2));
            if (microphone.getState() != AudioRecord.STATE_INITIALIZED) {
                throw new IOException("the microphone cannot be opened");
            }
            microphone.startRecording();
            short[] block = new short[BLOCK_SAMPLES];
            while (isRunning && seconds < limitSeconds) {
                int count = microphone.read(block, 0, block.length);
                if (count < 0) {
                    throw new IOException("the microphone gave error " + count);
                }
                writer.write(block, count);
                seconds = writer.seconds();
                tellSeconds(seconds);
            }
        } catch (IOException error) {
            failure = error;
        } catch (RuntimeException error) { // the permission was taken back, or another app has the microphone
            failure = error;
        } finally {
            if (microphone != null) {
                microphone.release();
            }
        }
        boolean isFull = isRunning && seconds >= limitSeconds;
        isRunning = false;
        if (seconds < SHORTEST_SECONDS) {
            file.delete();
        }
        // What was recorded before the storage was full, or the microphone was taken away, is kept.
        tellEnd(seconds < SHORTEST_SECONDS ? null : Attachment.audio(file.getPath(), seconds), isFull, failure);
    }

    /** Kind of a failed recording: a full phone, or a microphone that cannot be used. */
    static Trouble trouble(Throwable error) {
        Trouble trouble = Trouble.of(error);
        return trouble == Trouble.STORAGE_FULL ? trouble : Trouble.RECORDING_FAILED;
    }

    private void tellSeconds(double seconds) {
        Listener heard = listener;
        if (heard != null) {
            heard.onSeconds(seconds);
        }
    }

    private void tellEnd(Attachment recording, boolean isFull, Throwable error) {
        boolean isTaken = recording != null && chat.attach(recording);
        Listener heard = listener;
        if (heard != null) {
            heard.onEnd(recording, isTaken, isFull, error);
        }
    }
}
